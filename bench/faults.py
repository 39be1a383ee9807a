"""The fault matrix: every kind of actor of a node, five faults, three strategies.

Each kind stands between two bystanders under a supervisor of its own, with the strategy under
test, in a node with a PostgreSQL and a control chain; all are real processes. After each fault
those children must have been restarted whom the strategy names, as often as it says, and no
others in the whole node. SIGKILL and SIGSTOP hit the real class; what it can't be made to show
(a handler that raises, an end in `__init__`, memory) a stand-in that derives from it.

Then: how long a restart takes from SIGKILL to ready, spawned and from a warm spare, beside one of
an actor that does nothing; and a crash loop, which stops at its intensity and is told to the
supervisor above.

Run: `scripts/prove faults [--json] [--rounds N] [--times] [kind …]`, some ten minutes for all.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from bench._fault_actors import ALWAYS, ONCE, Grow, Raise, order_of
from bench._fault_node import (
    FaultNode,
    Kind,
    Nodes,
    all_run,
    back,
    bystanders,
    child_of,
    run_with_node,
)
from bench._restart_times import Restarts, restart_times
from supervision.contracts import Ping
from supervision.errors import Internal, TetherError
from supervision.spec import ChildSpec, SupervisorOptions
from supervision.strategy import Strategy, affected

FAULTS: Final = ("SIGKILL", "SIGSTOP", "raise", "__init__", "memory")
REAL: Final = ("SIGKILL", "SIGSTOP")  # what the real class can show
PROBE_S: Final = 3.0
LIMIT: Final = 300 << 20  # bytes; a supervisor's children count with it
GROWS_MIB: Final = 400
IDS: Final = ("before", "subject", "after")
INTENSITY: Final = 3  # of the crash loop
TIMED: Final = ("registry", "roster", "reservation", "scheduler", "gateway", "worker", "door")
#: How many times as long as a bare actor's a restart may take: ratios taken in one run, since what
#: a machine needs to start Python is the machine's.
TARGET: Final = {"spawn": 1.75, "spare": 3.5}
_STEADY_S: Final = 0.3


@dataclass(frozen=True, slots=True)
class Cell:
    """What came of one fault."""

    kind: str
    strategy: str
    fault: str
    restarts: tuple[int, int, int]  # of before, subject and after
    took_s: float
    wrong: str = ""


async def matrix(
    node: FaultNode, chosen: Sequence[str], strategies: Sequence[Strategy], faults: Sequence[str]
) -> list[Cell]:
    """The cells of these kinds, strategies and faults."""
    cells: list[Cell] = []
    for name in chosen:
        for strategy in strategies:
            for stand_in in (False, True):
                todo = [fault for fault in faults if (fault in REAL) is not stand_in]
                if todo:
                    cells += await _tree(node, name, strategy, stand_in, todo)
    return cells


async def _tree(
    node: FaultNode, name: str, strategy: Strategy, stand_in: bool, faults: Sequence[str]
) -> list[Cell]:
    kind = node.kinds[name]
    before, after = bystanders(("before", "after"))
    limit = LIMIT if stand_in else 0
    subject = child_of(kind, "subject", stand_in=stand_in, probe_s=PROBE_S, max_memory_bytes=limit)
    options = SupervisorOptions(
        strategy=strategy, intensity=1000, children=(before, subject, after)
    )
    cells = []
    async with node.grown("sut", options):
        for fault in faults:
            cell = await _cell(node, name, strategy, fault, kind[1].__name__)
            cells.append(cell)
            print(
                f"{name:12} {strategy:13} {fault:9} {cell.took_s:6.2f} s  "
                f"restarts {cell.restarts}  {cell.wrong or 'as expected'}",
                file=sys.stderr,
            )
    return cells


async def _cell(node: FaultNode, name: str, strategy: Strategy, fault: str, stand_in: str) -> Cell:
    """Hurt the subject, wait for what must come back, and look whether anything else did."""
    was, _ = await node.until(all_run)
    subject = was["sut/subject"]
    expected = {} if fault == "raise" else dict.fromkeys(affected(strategy, IDS, "subject"), 1)
    if fault == "__init__":
        expected["subject"] = 2  # once killed, and once because that restart failed
    began = time.monotonic()
    wrong = await _hurt(node, fault, subject.pid, subject.address, stand_in)
    try:
        now, at = await node.until(lambda nodes: back(was, nodes, expected))
    except TimeoutError as error:
        return Cell(name, strategy, fault, (0, 0, 0), time.monotonic() - began, str(error))
    await asyncio.sleep(_STEADY_S)  # what should not happen has no event
    now = await node.tree()
    counts = {id: now[f"sut/{id}"].restarts - was[f"sut/{id}"].restarts for id in IDS}
    for id, count in counts.items():
        right = {expected.get(id, 0)}
        if fault == "__init__" and strategy is Strategy.ONE_FOR_ALL and id == "before":
            right |= {2}  # if it was started already when the subject failed to
        if count not in right:
            wrong = wrong or f"{id} was restarted {count} times, not {expected.get(id, 0)}"
    for path, line in was.items():
        below = path.startswith("sut/subject/") or path in [f"sut/{id}" for id in expected]
        if not below and (path not in now or now[path].pid != line.pid):
            wrong = wrong or f"{path or 'the root'} was restarted as well"
    took_s = at - began if expected else 0.0
    return Cell(
        name, strategy, fault, (counts["before"], counts["subject"], counts["after"]), took_s, wrong
    )


async def _hurt(node: FaultNode, fault: str, pid: int, address: str, stand_in: str) -> str:
    """Do it; what is wrong with it already, if anything."""
    match fault:
        case "SIGKILL":
            os.kill(pid, signal.SIGKILL)
        case "SIGSTOP":
            os.kill(pid, signal.SIGSTOP)
        case "memory":
            with suppress(TetherError):  # it may be killed before it can answer
                await node.ask(address, Grow(mib=GROWS_MIB))
        case "__init__":
            order_of(stand_in).write_text(ONCE)
            os.kill(pid, signal.SIGKILL)
        case "raise":
            try:
                await node.ask(address, Raise())
            except Internal:
                await node.ask(address, Ping())  # it lives on
            else:
                return "the asker was not told that the handler had raised"
    return ""


# ---- a crash loop


async def crash_loop(node: FaultNode) -> Cell:
    """A child that can't start any more: its supervisor restarts it as often as it may, gives
    up, and is itself restarted by the root."""
    kind: Kind = node.kinds["scheduler"]
    before, after = bystanders(("before", "after"))
    subject: ChildSpec = child_of(kind, "subject", stand_in=True)
    options = SupervisorOptions(
        intensity=INTENSITY, period_s=60.0, children=(before, subject, after)
    )
    order = order_of(kind[1].__name__)
    async with node.grown("sut", options):
        was, _ = await node.until(all_run)
        began = time.monotonic()
        order.write_text(ALWAYS)
        os.kill(was["sut/subject"].pid, signal.SIGKILL)
        most = 0

        def escalated(nodes: Nodes) -> bool:
            nonlocal most
            if "sut/subject" in nodes:
                most = max(most, nodes["sut/subject"].restarts)
            return nodes["sut"].restarts > was["sut"].restarts

        now, at = await node.until(escalated)
        why = now["sut"].last_exit
        order.unlink(missing_ok=True)
        await node.until(all_run)
    wrong = "" if f"more than {INTENSITY} times" in why else f"the root was told: {why}"
    if most > INTENSITY:
        wrong = f"it was restarted {most} times, and may be {INTENSITY} times"
    return Cell("scheduler", "one_for_one", "crash loop", (0, most, 0), at - began, wrong)


# ---- all of it


def p95(times: Sequence[float]) -> float:
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, round(0.95 * (len(ordered) - 1)))]


def main(arguments: Sequence[str]) -> int:
    """Prints the table; 0 if every cell is as expected and the restarts are quick enough."""
    parser = argparse.ArgumentParser(prog="scripts/prove faults")
    parser.add_argument("kinds", nargs="*", help="all if none is given")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=12, help="kills of each kind, for the times")
    parser.add_argument("--times", action="store_true", help="the times alone")
    options = parser.parse_args(arguments)

    async def hurt(node: FaultNode) -> Any:
        cells: list[Cell] = []
        if not options.times:
            chosen = options.kinds or list(node.kinds)
            cells += await matrix(node, chosen, list(Strategy), FAULTS)
            cells.append(await crash_loop(node))
        return cells, await restart_times(node, timed, options.rounds, spare=False)

    async def spared(node: FaultNode) -> Any:
        return await restart_times(node, timed, options.rounds, spare=True)

    timed = [kind for kind in TIMED if kind in options.kinds or not options.kinds] or ["roster"]

    os.environ["TETHER_LOG_LEVEL"] = "ERROR"  # of all processes; they die on purpose
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and leave nothing behind
    cells, spawn = run_with_node(hurt)
    times = {"spawn": spawn, "spare": run_with_node(spared, spares=1)}
    (_print_json if options.json else _print)(cells, times)
    wrong = sum(bool(cell.wrong) for cell in cells)
    slow = [
        f"{kind} ({how})"
        for how, limit in TARGET.items()
        for kind, restarts in times[how].items()
        if restarts.ratio > limit
    ]
    print(f"{len(cells)} cells, {wrong} wrong; too slow: {', '.join(slow) or 'none'}")
    return 1 if wrong or slow else 0


def _print(cells: Sequence[Cell], times: dict[str, dict[str, Restarts]]) -> None:
    print("\nrestarts of before/subject/after, and seconds until all ran again")
    print(f"{'':12} {'':13}" + "".join(f"{fault:>17}" for fault in FAULTS))
    table: dict[tuple[str, str], dict[str, Cell]] = {}
    for cell in cells:
        table.setdefault((cell.kind, cell.strategy), {})[cell.fault] = cell
    for (kind, strategy), row in table.items():
        words = [_words(row[fault]) if fault in row else "" for fault in FAULTS]
        if any(words):
            print(f"{kind:12} {strategy:13}" + "".join(f"{word:>17}" for word in words))
    for cell in cells:
        if cell.fault not in FAULTS:
            print(
                f"{cell.fault}: {cell.kind} was restarted {cell.restarts[1]} times, then its "
                f"supervisor gave up, after {cell.took_s:.2f} s: {cell.wrong or 'as expected'}"
            )
        elif cell.wrong:
            print(f"WRONG {cell.kind} {cell.strategy} {cell.fault}: {cell.wrong}")
    print(
        "\nSIGKILL to ready, ms"
        + "".join(f"{how + ' p50':>14}{'p95':>8}{'bare':>8}{'ratio':>8}" for how in times)
    )
    for kind in times["spawn"]:
        told = [times[how][kind] for how in times]
        print(
            f"{kind:20}"
            + "".join(
                f"{statistics.median(t.own):14.0f}{p95(t.own):8.0f}"
                f"{statistics.median(t.bare):8.0f}{t.ratio:8.2f}"
                for t in told
            )
        )


def _words(cell: Cell) -> str:
    counts = "/".join(str(count) for count in cell.restarts)
    return f"{counts} {cell.took_s:5.2f}" + ("!" if cell.wrong else " ")


def _print_json(cells: Sequence[Cell], times: dict[str, dict[str, Restarts]]) -> None:
    for cell in cells:
        print(
            json.dumps(
                {
                    "bench": "faults",
                    "kind": cell.kind,
                    "strategy": cell.strategy,
                    "fault": cell.fault,
                    "restarts": cell.restarts,
                    "took_s": round(cell.took_s, 3),
                    "wrong": cell.wrong,
                }
            )
        )
    for how, by_kind in times.items():
        for kind, restarts in by_kind.items():
            print(
                json.dumps(
                    {
                        "bench": "faults",
                        "kind": kind,
                        "restart": how,
                        "rounds": len(restarts.own),
                        "p50_ms": round(statistics.median(restarts.own), 1),
                        "p95_ms": round(p95(restarts.own), 1),
                        "bare_p50_ms": round(statistics.median(restarts.bare), 1),
                        "ratio": round(restarts.ratio, 3),
                    }
                )
            )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
