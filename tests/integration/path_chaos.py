"""Random kills for as long as asked: `python tests/integration/path_chaos.py SECONDS SEED`.

Sixteen clients stream, ask for whole answers, and leave; every few seconds one process of the
path is killed. A kill is a single one: the next comes when the path is whole again and what was
under way has been answered, for an answer that its worker has settled and its gateway lost is gone
with that worker as well. Each answer must be exact, each job closed and billed once. Prints what
happened, and ends with 1 if anything was wrong. Too long for every change: see scripts/prove.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from actors.stores.database import connect, migrate
from actors.stores.embedded import Embedded
from supervision.contracts import TreeNode
from supervision.errors import TetherError
from tests.support.databases import TEMPLATE, in_database
from tests.support.path_node import Answer, Client, PathNode, echoed, running_path, until
from tests.support.termination import clean_up_on_sigterm

CLIENTS = 16
WORKERS = ("w1", "w2", "w3")
PATHS = (
    "control/registry",
    "control/roster",
    "control/reservation",
    "control/scheduler",
    "control/gateways/0",
    *(f"workers/{worker}" for worker in WORKERS),
)
DUPLICATES = "SELECT count(*) - count(DISTINCT (tenant_id, retry_token)) FROM jobs"
UNBILLED = """SELECT count(*) FROM jobs j LEFT JOIN ledger l ON l.job_id = j.id
    WHERE (j.outcome IN ('completed', 'cancelled')) <> (l.job_id IS NOT NULL)"""
OVERDUE = "SELECT count(*) FROM leases WHERE expires_at < now() - interval '3 seconds'"


class Chaos:
    """One run. `faults` is what must be empty."""

    def __init__(self, client: Client, seconds: float, seed: int) -> None:
        self._client = client
        self._end = time.monotonic() + seconds
        self._random = random.Random(seed)
        self._seed = seed
        self._turns: dict[int, int] = {}  # which request each client is at; no more once it is over
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []

    async def run(self) -> None:
        killer = asyncio.create_task(self._kill())
        await asyncio.gather(*map(self._ask, range(CLIENTS)))
        await killer
        query = self._client.database.fetchval

        async def settled() -> bool:
            return not await self._client.leases()

        try:
            await until(settled, timeout=15)
        except TimeoutError:  # reserved for a client that left as its gateway died
            self.counts["left to the sweep"] = await self._client.leases()
        for name, statement in (
            ("jobs of one token", DUPLICATES),
            ("jobs billed wrongly", UNBILLED),
            ("leases past their expiry", OVERDUE),
        ):
            if count := await query(statement):
                self.faults.append(f"{count} {name}")

    async def _kill(self) -> None:
        while time.monotonic() < self._end - 3:
            await asyncio.sleep(self._random.uniform(2.0, 4.0))
            path = self._random.choice(PATHS)
            line = await self._client.kill(path)
            self.counts[f"killed {path}"] += 1
            await self._over(line)

    async def _over(self, line: TreeNode) -> None:
        """Returns when nothing of a kill is left."""
        at = dict(self._turns)
        await self._client.successor(line)
        await self._client.ready()

        async def answered() -> bool:
            return all(self._turns.get(number) != turn for number, turn in at.items())

        await until(answered, timeout=60)

    async def _ask(self, number: int) -> None:
        draw, client = self._random, self._client
        for turn in range(1_000_000):
            if time.monotonic() >= self._end:
                self._turns.pop(number, None)
                return
            self._turns[number] = turn
            token, tokens = f"{self._seed}-{number}-{turn}", draw.choice((1, 5, 30, 100))
            text = f"a{number} b{turn} c delay={draw.choice((0, 1, 5, 20))}"
            infer = client.infer(
                text,
                token,
                max_tokens=tokens,
                stream=draw.random() < 0.7,
                explicit_token=draw.random() < 0.5,
                deadline_s=40.0,
            )
            answer = Answer()
            patience_s = draw.uniform(0, 0.5) if draw.random() < 0.1 else None
            try:
                async with asyncio.timeout(patience_s):
                    await client.stubborn(infer, answer)
            except TimeoutError:
                self.counts["left"] += 1
            except (TetherError, AssertionError) as error:
                self.faults.append(f"{token}: {error!r} after {len(answer.ids)} tokens")
            else:
                self.counts["answered"] += 1
                self.counts["reopened"] += answer.reopened
                if answer.text != echoed(text, tokens):
                    self.faults.append(
                        f"{token}: {answer.text!r} in place of {text!r} times {tokens}"
                    )


async def chaos(node: PathNode, seconds: float, seed: int) -> int:
    async with node.client() as client:
        run = Chaos(client, seconds, seed)
        await run.run()
    for what, count in sorted(run.counts.items()):
        print(f"{count:7d} {what}")
    for fault in run.faults:
        print(f"WRONG: {fault}")
    return 1 if run.faults else 0


def main(seconds: float, seed: int) -> int:
    folder = Path(tempfile.mkdtemp(prefix="tc-"))
    server = Embedded(folder / "pg", folder / "s")

    async def begin() -> None:
        await server.start()
        connection = await connect(server.dsn)
        await connection.execute(f"CREATE DATABASE {TEMPLATE}")
        await connection.close()
        connection = await connect(in_database(server.dsn, TEMPLATE))
        await migrate(connection)
        await connection.close()

    try:
        asyncio.run(begin())
        with running_path(server, workers=WORKERS) as node:
            return asyncio.run(chaos(node, seconds, seed))
    finally:
        asyncio.run(server.stop())
        shutil.rmtree(folder)


if __name__ == "__main__":
    clean_up_on_sigterm()
    sys.exit(main(float(sys.argv[1]), int(sys.argv[2])))
