"""`scripts/prove supervisors [ROUNDS] [--busy]`: no SIGKILL of a supervisor ends a node.

A node with the echo model answers streams. `doors` is killed ROUNDS times (40), and half as often
together with `workers` and together with the database's actor, each time when all has run for 10 s
again: so no kill is a repeated failure (see `supervisor_kills`). After each kill a new request must
be answered within `BOUND_S`, no connection refused, and `tether up` and the root the processes that
they were, with one restart for each that was killed. With `--busy`, all of it once more beside a
busy loop on every core. Exits 1 at the first thing that is not as it should be.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.node_process import Launcher, Node, write_config
from tests.support.supervisor_kills import STEADY_S, Seen, kill_all
from tests.support.termination import clean_up_on_sigterm

BOUND_S, BUSY_BOUND_S = 15.0, 60.0
PAIRS = (("doors",), ("doors", "workers"), ("doors", "postgres"))


def say(sentence: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {sentence}", flush=True)


@contextmanager
def busy() -> Iterator[None]:
    """Every core computes something else as well."""
    loops = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"])
        for _ in range(os.cpu_count() or 1)
    ]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def prove(node: Node, rounds: int, bound_s: float, where: str) -> None:
    """All three kinds, one after the other."""
    for paths in PAIRS:
        count = rounds if len(paths) == 1 else max(1, rounds // 2)
        seen = Seen()
        asyncio.run(kill_all(node, [paths] * count, seen, bound_s, apart_s=STEADY_S))
        times = sorted(seen.answered_s)
        say(
            f"{where}, {' and '.join(paths)}: {count} of {count} outlived, a new request answered "
            f"after {statistics.median(times):.2f} s (median; worst {times[-1]:.2f} s); "
            f"{seen.whole} whole answers, {seen.broken} broken off and said so, "
            f"{len(seen.refused)} connections refused"
        )
        assert not seen.refused, seen.refused[:3]


def main() -> None:
    said = argparse.ArgumentParser(prog="scripts/prove supervisors")
    said.add_argument("rounds", nargs="?", type=int, default=40)
    said.add_argument("--busy", action="store_true")
    args = said.parse_args()
    launch = Launcher()
    with tempfile.TemporaryDirectory() as folder:
        write_config(Path(folder))
        try:
            node = launch(Path(folder))
            prove(node, args.rounds, BOUND_S, "quiet")
            if args.busy:
                with busy():
                    prove(node, args.rounds, BUSY_BOUND_S, "busy")
            code = node.stop()
            assert code == 0, f"tether up ended with {code}:\n{node.tail()}"
        finally:
            launch.close()
    say("all outlived; the node stopped in order")


if __name__ == "__main__":
    clean_up_on_sigterm()
    main()
