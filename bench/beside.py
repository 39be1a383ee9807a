"""What a request costs here, beside another checkout: `bench.http` in both, in turns.

    scripts/bench beside CHECKOUT [--pairs 10] [--cases unary] [--seconds 3]
        [--limit 1.10] [--json]

CHECKOUT is a clone or work tree of another commit with a `.venv` of its own. The two take turns,
and who begins changes from pair to pair, so that what else the machine does meets both. Of each
pair the ratio is taken, here to there, of processor time per request (`cpu_ms`); what is printed is
the median of the pairs' ratios with the interval that holds the true median with at least 95 % (of
order statistics, without an assumption of how ratios spread), for each case and for the pair as a
whole (the geometric mean of its cases). With `--limit` it ends with 1 if the lower end of the
interval of all cases is above it: the checkout here costs more than it may.

Source: Hettmansperger and McKean, Robust Nonparametric Statistical Methods, §1.3 (sign interval).
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
WHOLE = "all cases"


def costs(checkout: Path, options: argparse.Namespace) -> dict[str, float]:
    """Milliseconds of processor time per request, by case, of one run there.

    Raises:
        SystemExit: the run failed, or a request did.
    """
    command = [
        str(checkout / ".venv/bin/python"), "-m", "bench.http", "--json",
        "--cases", options.cases, "--seconds", str(options.seconds),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=checkout, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"bench.http ended with {done.returncode} in {checkout}")
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {
        f"{row['case']} {row['in_flight']}": row["cpu_ms"]
        for row in rows
        if row["subject"] == "tether"
    }


def interval(values: Sequence[float], share: float = 0.95) -> tuple[float, float, float]:
    """(lower end, upper end, how much it holds) of the median of what `values` were drawn from: the
    narrowest pair of order statistics that holds `share`, or all there are."""
    ordered, count = sorted(values), len(values)
    best = (ordered[0], ordered[-1], 1 - 2.0 ** (1 - count))
    for cut in range(1, count // 2):
        outside = 2 * sum(math.comb(count, k) for k in range(cut + 1)) / 2.0**count
        if 1 - outside < share:
            break
        best = (ordered[cut], ordered[-1 - cut], 1 - outside)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench beside")
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--cases", default="unary")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--limit", type=float, help="of the ratio of all cases, here to there")
    parser.add_argument("--json", action="store_true", help="one object a line")
    options = parser.parse_args()
    there = options.checkout.resolve()
    ratios: dict[str, list[float]] = {}
    for number in range(options.pairs):
        order = (HERE, there) if number % 2 else (there, HERE)
        seen = {checkout: costs(checkout, options) for checkout in order}
        pair = {case: cost / seen[there][case] for case, cost in seen[HERE].items()}
        pair[WHOLE] = math.exp(statistics.fmean(map(math.log, pair.values())))
        for case, ratio in pair.items():
            ratios.setdefault(case, []).append(ratio)
        told = ", ".join(f"{case} {ratio:.3f}" for case, ratio in pair.items())
        print(f"pair {number + 1} of {options.pairs}: {told}", file=sys.stderr, flush=True)
    over = False
    for case, found in ratios.items():
        low, high, held = interval(found)
        over |= case == WHOLE and options.limit is not None and low > options.limit
        middle = statistics.median(found)
        if options.json:
            row = {"bench": "beside", "case": case, "pairs": len(found), "ratio": round(middle, 4)}
            print(json.dumps(row | {"low": round(low, 4), "high": round(high, 4)}), flush=True)
        else:
            print(f"{case:>12}: {middle:.3f} of there, {low:.3f} to {high:.3f} ({held:.1%})")
    if over:
        sys.exit(f"that is above {options.limit:g}")


if __name__ == "__main__":
    main()
