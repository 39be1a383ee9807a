"""Round trips and stream chunks between actors of two nodes over mutual TLS, beside two actors of
one node over a Unix socket.

As in `bench.runtime`: about 200 bytes of payload, 1, 8 and 64 asks in flight, the median of rounds
that alternate. Both nodes are on this machine, so the network costs nothing and the processors
are shared.

Run: `scripts/bench between_nodes [--json]`, about half a minute.
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
from typing import Any, Final

from thespian.actors import ActorSystem

from actors.core.node_roles import ROLES
from bench._runtime_actors import BenchDrive, BenchDriven, BenchDriver, BenchEcho
from bench.runtime import Tether, processor_s
from supervision.runtime import Address, Endpoint
from supervision.security.authority import Authority

HOST: Final = "127.0.0.1"
ROUNDS: Final = 3
TRIPS: Final = {0: 100_000, 1: 5_000, 8: 20_000, 64: 40_000}  # in flight; 0 is the stream


class TwoNodes:
    """A driver on one node, an echo on the other."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="tb"))
        authority = Authority.init(self.folder / "ca", "bench")
        self.nodes = {node: free_port() for node in ("n1", "n2")}
        self.systems = []
        for node, port in self.nodes.items():
            authority.issue(node, roles=ROLES)
            capabilities = {
                "Node Id": node,
                "Admin Port": port,
                "Run Dir": str(self.folder / node),
                "Actor Classes": ["bench._runtime_actors.*"],
                "Tls Identity Dir": str(authority.folder_of(node)),
                "Listen": HOST,
                "Routes": dict.fromkeys(self.nodes, HOST),
            }
            self.systems.append(ActorSystem("tether", capabilities, transientUnique=True))
        self.driver = asyncio.run(self._create("n1", BenchDriver))
        self.echo = asyncio.run(self._create("n2", BenchEcho))
        self.pids = [self.driver.pid, self.echo.pid]

    def _endpoint(self, node: str) -> Endpoint:
        return Endpoint.connect(run_dir=str(self.folder / node), node=node, port=self.nodes[node])

    async def _create(self, node: str, actor: type) -> Address:
        async with self._endpoint(node) as endpoint:
            return await endpoint.create(actor)

    def drive(self, in_flight: int, trips: int) -> float:
        async def run() -> float:
            async with self._endpoint("n1") as endpoint:
                order = BenchDrive(target=str(self.echo), in_flight=in_flight, trips=trips)
                driven: BenchDriven = await endpoint.ask(self.driver, order, timeout=60)
                return driven.seconds

        return asyncio.run(run())

    def stop(self) -> None:
        for system in self.systems:
            system.shutdown()
        shutil.rmtree(self.folder)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def measure(subjects: dict[str, Any], in_flight: int) -> list[dict[str, Any]]:
    """One row a subject."""
    trips = TRIPS[in_flight]
    seconds: dict[str, list[float]] = {name: [] for name in subjects}
    processor: dict[str, list[float]] = {name: [] for name in subjects}
    for _ in range(ROUNDS):
        for name, subject in subjects.items():
            before = processor_s(subject.pids)
            seconds[name].append(subject.drive(in_flight, trips))
            processor[name].append(processor_s(subject.pids) - before)
    kind: dict[str, Any] = {"in_flight": in_flight} if in_flight else {"kind": "stream"}
    return [
        {
            "bench": "between_nodes",
            "subject": name,
            **kind,
            "per_s": round(trips / statistics.median(seconds[name])),
            "cpu_us": round(statistics.median(processor[name]) / trips * 1e6, 1),
        }
        for name in subjects
    ]


def main(arguments: list[str]) -> int:
    subjects = {"one node, unix": Tether(), "two nodes, mutual TLS": TwoNodes()}
    try:
        for in_flight in (1, 8, 64, 0):
            for row in measure(subjects, in_flight):
                if "--json" in arguments:
                    print(json.dumps(row), flush=True)
                else:
                    what = f"{in_flight} in flight" if in_flight else "stream"
                    print(
                        f"{row['subject']:24}{what:14}{row['per_s']:>10,}/s"
                        f"{row['cpu_us']:>8} µs of processor",
                        flush=True,
                    )
    finally:
        for subject in subjects.values():
            subject.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
