"""python -m bench.simulation [--seeds N] [--from N] [--seed N] [--bug NAME] [--bugs]"""

from __future__ import annotations

import argparse
import os
import sys
import time

from bench.simulation.bugs import BUGS
from bench.simulation.seeds import BOUND, many, quiet, replay
from bench.simulation.story import run


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/prove simulation")
    parser.add_argument("--seeds", type=int, default=10_000)
    parser.add_argument("--from", type=int, default=0, dest="first")
    parser.add_argument("--seed", type=int, help="this one alone, with its whole trace")
    parser.add_argument("--bug", choices=sorted(BUGS), default="", help="plant this one")
    parser.add_argument("--bugs", action="store_true", help="plant each of them in turn")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--minutes", type=float, default=10.0, help="stop after so long")
    args = parser.parse_args()
    quiet()
    if args.seed is not None:
        report = run(args.seed, args.bug, whole=True)
        print("\n".join(report.lines))
        print(f"seed {report.seed}: {report.fault or 'every law held'}; digest {report.digest}")
        return bool(report.fault)
    if args.bugs or args.bug:
        return _plant([args.bug] if args.bug else list(BUGS), args.jobs)
    began = time.perf_counter()
    seeds = range(args.first, args.first + args.seeds)
    failed, ran, outcomes = many(seeds, "", args.jobs, args.minutes * 60)
    took_s = time.perf_counter() - began
    for report in failed:
        print(f"seed {report.seed}: {report.fault}\n  again: {replay(report.seed)}")
    broken = f"{len(failed)} broke a law"
    print(f"{ran} of {args.seeds} seeds in {took_s:.0f} s, {broken}; {dict(outcomes)}")
    return bool(failed) or ran < args.seeds


def _plant(bugs: list[str], jobs: int) -> int:
    missed = 0
    for bug in bugs:
        failed, ran, _ = many(range(BOUND), bug, jobs)
        if not failed:
            print(f"{bug}: not found in {ran} seeds")
            missed += 1
            continue
        report = failed[0]
        same = run(report.seed, bug).digest == report.digest
        print(f"{bug}: found in {ran} seeds: {report.fault}\n  again: {replay(report.seed, bug)}")
        if not same:
            print("  but it doesn't replay")
            missed += 1
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
