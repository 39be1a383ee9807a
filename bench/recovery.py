"""From SIGKILL of an actor to the first good answer: ours, xoscar's auto_recover, stock Thespian.

An echo without state in a process of its own, on four systems in one run, which are hurt in turn:

- `tether`: a supervisor restarts it; the client follows the node's tree.
- `tether, warm spare`: the same with the capability "Warm Spares".
- `xoscar`: a pool with one sub-process and auto_recover="actor"; the client holds the reference.
  Its main pool looks after its processes every half second.
- `multiprocTCPBase`: a parent that creates its child anew on ChildActorExited, and through which
  the client asks.

A good answer is the right number from a new process. Clients ask again at once after an error, and
after 50 ms of silence. xoscar is an extra of this package: `pip install -e '.[bench]'`; without it
its line is left out.

Run: `scripts/bench recovery [--json] [--rounds N]`, about two minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import math
import os
import shutil
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from thespian.actors import ActorSystem

from bench._recovery_actors import PlainParent, RecoveryEcho, WhoAnswers
from supervision.backoff import Backoff
from supervision.contracts import Tree, WatchTree
from supervision.errors import TetherError
from supervision.root import start_tree, stop_tree
from supervision.runtime import Endpoint
from supervision.spec import SupervisorOptions
from supervision.telemetry import logs

REST_S: Final = 2.0  # between two kills of one system; a spare is warm again by then
SILENCE_S: Final = 0.05
PATIENCE_S: Final = 60.0
PORTS: Final = {"tether": 1981, "tether, warm spare": 1982}


class Tether:
    """A node of ours."""

    def __init__(self, name: str, *, spares: int) -> None:
        self.run_dir = tempfile.mkdtemp(prefix="tb")
        os.environ["THESPLOG_FILE"] = f"{self.run_dir}/thespian.log"
        self.system = ActorSystem(
            "tether",
            {
                "Node Id": "bench",
                "Admin Port": PORTS[name],
                "Run Dir": self.run_dir,
                "Actor Classes": ["supervision.*", "bench._recovery_actors.*"],
                "Owner Pid": os.getpid(),
                "Warm Spares": spares,
            },
            transientUnique=True,
        )
        self.runner = asyncio.Runner()
        self.endpoint = Endpoint.connect(run_dir=self.run_dir, node="bench", port=PORTS[name])
        self.address = ""
        self.runner.run(self._begin())

    async def _begin(self) -> None:
        await self.endpoint.__aenter__()
        echo = RecoveryEcho.spec(id="echo", backoff=Backoff(initial_s=0.0, max_s=0.0))
        options = SupervisorOptions(intensity=10_000, children=(echo,))
        self.root = await start_tree(self.endpoint, options)
        self.following = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        async for tree in self.endpoint.stream(self.root, WatchTree(), credit=2):
            assert isinstance(tree, Tree)
            self.address = tree.address("echo") or self.address

    def recover(self) -> float:
        async def ask(number: int) -> tuple[int, int]:
            try:
                answer = await self.endpoint.ask(self.address, WhoAnswers(number=number))
            except (TetherError, ValueError):
                await asyncio.sleep(0.001)  # until the tree tells the new address
                return number, 0
            return answer.number, answer.pid

        return self.runner.run(_recovered(ask))

    def rest(self) -> None:
        self.runner.run(asyncio.sleep(REST_S))

    def stop(self) -> None:
        async def end() -> None:
            self.following.cancel()
            await stop_tree(self.endpoint, self.root)
            await self.endpoint.__aexit__(None, None, None)

        self.runner.run(end())
        self.runner.close()
        self.system.shutdown()
        shutil.rmtree(self.run_dir, ignore_errors=True)


class Xoscar:
    """xoscar with a pool of one sub-process."""

    def __init__(self) -> None:
        import xoscar

        self.runner = asyncio.Runner()

        async def begin() -> None:
            self.pool = await xoscar.create_actor_pool(
                f"127.0.0.1:{_free_port()}", n_process=1, auto_recover="actor"
            )
            from bench._recovery_xoscar import Echo

            self.echo = await xoscar.create_actor(
                Echo,
                uid="echo",
                address=self.pool.external_address,
                allocate_strategy=xoscar.allocate_strategy.ProcessIndex(1),
            )

        self.runner.run(begin())

    def recover(self) -> float:
        async def ask(number: int) -> tuple[int, int]:
            try:
                # not less: a call that is given up takes its connection along
                answer: tuple[int, int] = await asyncio.wait_for(self.echo.who(number), 2.0)
            except Exception:  # whatever it says of a lost process, until it is back
                await asyncio.sleep(0.001)
                return number, 0
            return answer

        return self.runner.run(_recovered(ask))

    def rest(self) -> None:
        self.runner.run(asyncio.sleep(REST_S))

    def stop(self) -> None:
        self.runner.run(self.pool.stop())
        self.runner.close()


class Plain:
    """Stock Thespian."""

    def __init__(self) -> None:
        self.system = ActorSystem(
            "multiprocTCPBase", {"Admin Port": _free_port()}, transientUnique=True
        )
        self.parent = self.system.createActor(PlainParent)

    def recover(self) -> float:
        async def ask(number: int) -> tuple[int, int]:
            answer = self.system.ask(self.parent, number, SILENCE_S)
            return answer if isinstance(answer, tuple) else (number, 0)

        return asyncio.run(_recovered(ask))

    def rest(self) -> None:
        time.sleep(REST_S)

    def stop(self) -> None:
        self.system.shutdown()


async def _recovered(ask: Callable[[int], Awaitable[tuple[int, int]]]) -> float:
    """Kill whoever answers; milliseconds until another one does, rightly."""
    number = 0
    until = time.monotonic() + PATIENCE_S
    pid = 0
    while not pid:
        number += 1
        answered, pid = await ask(number)
        if time.monotonic() > until:
            raise TimeoutError("it did not answer before it was killed")
    began = time.perf_counter()
    os.kill(pid, signal.SIGKILL)
    while True:
        number += 1
        answered, successor = await ask(number)
        if successor not in (0, pid) and answered == number:
            return (time.perf_counter() - began) * 1000
        if time.monotonic() > until:
            raise TimeoutError(f"nobody answered within {PATIENCE_S:g} s after the kill")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main(arguments: Sequence[str]) -> int:
    """Prints the figures; 0 if ours recovers sooner than xoscar, where that is installed."""
    parser = argparse.ArgumentParser(prog="scripts/bench recovery")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args(arguments)
    os.environ["TETHER_LOG_LEVEL"] = "ERROR"  # of all processes; they die on purpose
    logs.configure()
    subjects: dict[str, Any] = {}
    times: dict[str, list[float]] = {}
    try:
        subjects["tether"] = Tether("tether", spares=0)
        subjects["tether, warm spare"] = Tether("tether, warm spare", spares=1)
        if importlib.util.find_spec("xoscar"):
            subjects["xoscar"] = Xoscar()
        subjects["multiprocTCPBase"] = Plain()
        for _ in range(options.rounds):
            for name, subject in subjects.items():
                subject.rest()
                try:
                    took_ms = subject.recover()
                except TimeoutError as error:
                    print(f"{name}: {error}", file=sys.stderr)
                    took_ms = math.inf
                times.setdefault(name, []).append(took_ms)
    finally:
        for subject in subjects.values():
            subject.stop()
    for name, each in times.items():
        each.sort()
        row = {
            "bench": "recovery",
            "subject": name,
            "rounds": len(each),
            "p50_ms": round(statistics.median(each), 1),
            "p95_ms": round(each[round(0.95 * (len(each) - 1))], 1),
            "worst_ms": round(each[-1], 1),
        }
        if options.json:
            print(json.dumps(row))
        else:
            print(
                f"{name:20} SIGKILL to the first good answer: p50 {row['p50_ms']:8} ms  "
                f"p95 {row['p95_ms']:8} ms  worst {row['worst_ms']:8} ms"
            )
    theirs = times.get("xoscar")
    return 0 if theirs is None or times["tether"][0] < theirs[-1] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
