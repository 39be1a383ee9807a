"""Reserve and settle, each job once: what a pair costs, in the loop that asks and as an actor.

`ledger` runs in the process that asks, so its `cpu_us` holds the clients as well. `actor` is the
process of the reservation alone, asked through an endpoint: contracts decoded and encoded,
rounds, driver. `pg_cpu_us` is all of PostgreSQL's processes. All per reserve and settle.

Run: `scripts/bench reservation [--json]`, about half a minute.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import uvloop

from actors.contracts import JobKey, Outcome, Reserve, Settle, Usage
from actors.core.ids import job_id
from actors.reservation.reservation import Reservation, ReservationOptions
from actors.stores.embedded import Embedded
from actors.stores.ledger import Ledger
from bench.runtime import processor_s
from supervision.contracts import ShowTree
from supervision.root import start_tree, stop_tree
from supervision.runtime import Address, Endpoint
from supervision.spec import SupervisorOptions
from supervision.system import System

IN_FLIGHT = (1, 8, 64)
ROUNDS = 3
ROUND_S = 1.5
CPU_TARGET_US = 20  # of the reservation's process for a pair at 64 in flight

Ask = Callable[[Any], Awaitable[Any]]


async def pairs(reserve: Ask, settle: Ask, in_flight: int, seconds: float) -> int:
    """How many jobs `in_flight` clients reserve and settle in that time."""
    until = time.perf_counter() + seconds
    done = 0

    async def client() -> None:
        nonlocal done
        while time.perf_counter() < until:
            job = job_id()
            given = await reserve(
                Reserve(
                    job=JobKey(
                        job_id=job,
                        tenant_id="acme",
                        retry_token=job,
                        fingerprint=b"0123456789abcdef",
                        model_ref="echo@1",
                    ),
                    worker_id="w1",
                    worker_address="n1/w1/1",
                    deadline_s=120.0,
                )
            )
            settled = await settle(
                Settle(
                    job_id=job,
                    fencing_token=given.assignment.fencing_token,
                    outcome=Outcome.COMPLETED,
                    usage=Usage(prompt_tokens=20, completion_tokens=64),
                    finish="stop",
                )
            )
            if not settled.first:
                raise RuntimeError(f"job {job} was settled before")
            done += 1

    await asyncio.gather(*(client() for _ in range(in_flight)))
    return done


def server_s(pid: int) -> float:
    """Processor time of all processes of PostgreSQL so far, in seconds."""
    server = psutil.Process(pid)
    total = 0.0
    for process in (server, *server.children()):
        times = process.cpu_times()
        total += times.user + times.system
    return total


async def measure(
    subject: str, reserve: Ask, settle: Ask, pid: int, server_pid: int
) -> list[dict[str, Any]]:
    """One row for each number in flight; medians of the rounds."""
    rows = []
    for in_flight in IN_FLIGHT:
        per_s, cpu, server = [], [], []
        for _ in range(ROUNDS):
            began, ours, theirs = time.perf_counter(), processor_s([pid]), server_s(server_pid)
            done = await pairs(reserve, settle, in_flight, ROUND_S)
            per_s.append(done / (time.perf_counter() - began))
            cpu.append((processor_s([pid]) - ours) / done * 1e6)
            server.append((server_s(server_pid) - theirs) / done * 1e6)
        rows.append(
            {
                "bench": "reservation",
                "subject": subject,
                "in_flight": in_flight,
                "per_s": round(statistics.median(per_s)),
                "cpu_us": round(statistics.median(cpu), 1),
                "pg_cpu_us": round(statistics.median(server), 1),
            }
        )
    return rows


async def as_actor(run_dir: str, dsn: str, server_pid: int) -> list[dict[str, Any]]:
    tree = SupervisorOptions(children=(Reservation.spec(ReservationOptions(dsn=dsn)),))
    async with Endpoint.connect(run_dir=run_dir, node="bench") as endpoint:
        root = await start_tree(endpoint, tree)
        try:
            nodes = (await endpoint.ask(root, ShowTree())).nodes
            child = next(node for node in nodes if node.path == "reservation")
            address = Address.parse(child.address)

            def ask(contract: Any) -> Awaitable[Any]:
                return endpoint.ask(address, contract, 10.0)

            return await measure("actor", ask, ask, child.pid, server_pid)
        finally:
            await stop_tree(endpoint, root)


async def in_this_process(dsn: str, server_pid: int) -> list[dict[str, Any]]:
    async with Ledger(dsn) as ledger:
        return await measure("ledger", ledger.reserve, ledger.settle, os.getpid(), server_pid)


def main(arguments: list[str]) -> int:
    """Prints the figures; 0 if the target is met."""
    folder = Path(tempfile.mkdtemp(prefix="tb-"))
    server = Embedded(folder / "pg", folder / "s")
    run_dir = folder / "run"
    run_dir.mkdir(mode=0o700)
    try:
        dsn = asyncio.run(server.start())
        server_pid = server.running()
        if server_pid is None:
            raise RuntimeError("PostgreSQL ended")
        rows = uvloop.run(in_this_process(dsn, server_pid))
        capabilities = {
            "Node Id": "bench",
            "Run Dir": str(run_dir),
            "Actor Classes": ["actors.*", "supervision.*"],
            "Owner Pid": os.getpid(),
        }
        system = System.start(capabilities)
        try:
            rows += uvloop.run(as_actor(str(run_dir), dsn, server_pid))
        finally:
            system.shutdown()
    finally:
        asyncio.run(server.stop())
        shutil.rmtree(folder)
    for row in rows:
        if "--json" in arguments:
            print(json.dumps(row))
        else:
            print(
                f"{row['subject']:7} {row['in_flight']:>3} in flight {row['per_s']:>7,} pairs/s "
                f"{row['cpu_us']:>7} µs CPU  {row['pg_cpu_us']:>7} µs in PostgreSQL"
            )
    return 0 if rows[-1]["cpu_us"] <= CPU_TARGET_US else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
