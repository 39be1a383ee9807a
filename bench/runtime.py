"""Round trips and stream chunks between two actors, on our base and on multiprocTCPBase.

Two actors in processes of their own, one asks, the other answers with about 200 bytes of
payload; at 1, 8 and 64 asks in flight. `per_s` is the median of the rounds, which alternate
between the subjects, since these machines are noisy. `cpu_us` is processor time of both
actors per round trip (per chunk for streams), from the kernel's accounting.

Run: `scripts/bench runtime [--json]`, about a minute.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from thespian.actors import ActorSystem

from bench._runtime_actors import (
    BenchDrive,
    BenchDriven,
    BenchDriver,
    BenchEcho,
    PlainDrive,
    PlainDriver,
    PlainEcho,
)
from supervision.runtime import Address, Endpoint

IN_FLIGHT = (1, 8, 64)
ROUNDS = 3
SUBJECTS = ("tether", "multiprocTCPBase")
TRIPS = {
    "tether": {1: 5_000, 8: 20_000, 64: 40_000},
    "multiprocTCPBase": dict.fromkeys(IN_FLIGHT, 1_000),
}
CHUNKS = {"tether": 100_000, "multiprocTCPBase": 2_000}
TARGETS = {8: 20, 64: 60}  # times as many round trips as multiprocTCPBase
CPU_TARGET_US = 20  # of one round trip at 64 in flight


class Tether:
    """Our base with the two actors."""

    def __init__(self) -> None:
        self.run_dir = tempfile.mkdtemp(prefix="tb")
        self.system = ActorSystem(
            "tether",
            {
                "Node Id": "bench",
                "Run Dir": self.run_dir,
                "Actor Classes": ["bench._runtime_actors.*"],
            },
            transientUnique=True,
        )
        self.driver, self.echo = asyncio.run(self._create())
        self.pids = [self.driver.pid, self.echo.pid]

    def _endpoint(self) -> Endpoint:
        return Endpoint.connect(run_dir=self.run_dir, node="bench")

    async def _create(self) -> list[Address]:
        async with self._endpoint() as endpoint:
            return [await endpoint.create(BenchDriver), await endpoint.create(BenchEcho)]

    def drive(self, in_flight: int, trips: int) -> float:
        async def run() -> float:
            async with self._endpoint() as endpoint:
                order = BenchDrive(target=str(self.echo), in_flight=in_flight, trips=trips)
                driven: BenchDriven = await endpoint.ask(self.driver, order, timeout=60)
                return driven.seconds

        return asyncio.run(run())

    def stop(self) -> None:
        self.system.shutdown()
        shutil.rmtree(self.run_dir)


class Plain:
    """multiprocTCPBase with the two actors."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.system = ActorSystem("multiprocTCPBase", {"Admin Port": port}, transientUnique=True)
        self.driver = self.system.createActor(PlainDriver)
        self.echo = self.system.createActor(PlainEcho)
        self.pids = [int(self.system.ask(a, "pid", 10)) for a in (self.driver, self.echo)]

    def drive(self, in_flight: int, trips: int) -> float:
        seconds = self.system.ask(self.driver, PlainDrive(self.echo, in_flight, trips), 60)
        if not isinstance(seconds, float):
            raise TimeoutError(f"multiprocTCPBase gave no answer at {in_flight} in flight")
        return seconds

    def stop(self) -> None:
        self.system.shutdown()


# ---- measuring


def processor_s(pids: list[int]) -> float:
    """Processor time of these processes so far, in seconds; proc(5), schedstat."""
    tasks = (path for pid in pids for path in Path(f"/proc/{pid}/task").iterdir())
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def measure(subjects: dict[str, Any], in_flight: int) -> list[dict[str, Any]]:
    """One row a subject; `in_flight` 0 is the stream."""
    seconds: dict[str, list[float]] = {name: [] for name in subjects}
    processor: dict[str, list[float]] = {name: [] for name in subjects}
    trips = {n: TRIPS[n][in_flight] if in_flight else CHUNKS[n] for n in subjects}
    for _ in range(ROUNDS):
        for name, subject in subjects.items():
            before = processor_s(subject.pids)
            seconds[name].append(subject.drive(in_flight, trips[name]))
            processor[name].append(processor_s(subject.pids) - before)
    kind: dict[str, Any] = {"in_flight": in_flight} if in_flight else {"kind": "stream"}
    return [
        {
            "bench": "runtime",
            "subject": name,
            **kind,
            "per_s": round(trips[name] / statistics.median(seconds[name])),
            "cpu_us": round(statistics.median(processor[name]) / trips[name] * 1e6, 1),
        }
        for name in subjects
    ]


def main(arguments: list[str]) -> int:
    """Prints the figures; 0 if the targets are met."""
    subjects: dict[str, Any] = {}
    rows: list[dict[str, Any]] = []
    try:
        subjects["tether"] = Tether()
        subjects["multiprocTCPBase"] = Plain()
        for subject in subjects.values():
            subject.drive(8, 200)  # connections, caches
        for in_flight in (*IN_FLIGHT, 0):
            rows += measure(subjects, in_flight)
    finally:
        for subject in subjects.values():
            subject.stop()
    met = True
    for ours, theirs in zip(rows[::2], rows[1::2], strict=True):
        times = ours["per_s"] / theirs["per_s"]
        met = met and times >= TARGETS.get(ours.get("in_flight", 0), 0)
        if ours.get("in_flight") == 64:
            met = met and ours["cpu_us"] <= CPU_TARGET_US
        if "--json" in arguments:
            print(json.dumps(ours))
            print(json.dumps(theirs))
            continue
        what = f"{ours['in_flight']} in flight" if "in_flight" in ours else "stream, chunks"
        print(
            f"{what:16} tether {ours['per_s']:>9,}/s {ours['cpu_us']:>7} µs CPU    "
            f"multiprocTCPBase {theirs['per_s']:>6,}/s {theirs['cpu_us']:>7} µs    "
            f"{times:6.1f} times"
        )
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
