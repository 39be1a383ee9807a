"""kill -9 of `tether up` and of the root supervisor under load: what was delivered is billed, once.

    scripts/prove owners [ROUNDS]

Every round kills one of them under 56 streams, of which some have just ended and some have just
begun, waits until nothing is left running (or, every second time, doesn't), and starts the node
again on the same data. ROUNDS (20) of each take about ten minutes. Prints what was seen, and ends
with 1 if anything does not hold.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Final

import asyncpg
import httpx2

from tests.support.node_process import ECHO, Launcher, Node, of_home, until, write_config
from tests.support.sse import Answer, chat, echoed
from tests.support.termination import clean_up_on_sigterm

STREAMS: Final = 56
SEED: Final = 7
GONE_S: Final = 20.0  # until nothing is left running
SWEPT_S: Final = 120.0  # deadline, grace of a lease, and the sweep
CONFIG: Final = "processes = 2\ndefault_deadline_s = 20.0\n"
BILLS: Final = """
    SELECT j.retry_token, l.output_tokens AS completion_tokens
    FROM jobs j JOIN ledger l ON l.job_id = j.id WHERE j.retry_token = ANY($1::text[])
"""
OPEN: Final = """
    SELECT (SELECT count(*) FROM leases) + (SELECT count(*) FROM jobs WHERE state <> 'settled')
"""


class Load:
    """Clients that ask for one answer after the other until the node is gone."""

    def __init__(self, node: Node, dice: random.Random) -> None:
        self._node, self._dice = node, dice
        self.answers: list[Answer] = []
        self.faults: list[str] = []
        self._last = False

    async def run(self) -> None:
        """Returns when all have ended, well or not."""
        limits = httpx2.Limits(max_connections=STREAMS, max_keepalive_connections=STREAMS)
        async with httpx2.AsyncClient(
            base_url=self._node.url, headers=self._node.headers, timeout=60.0, limits=limits
        ) as client:
            await asyncio.gather(*(self._client(client, number) for number in range(STREAMS)))

    def stop(self) -> None:
        """What runs is the last."""
        self._last = True

    async def _client(self, client: httpx2.AsyncClient, number: int) -> None:
        asked = 0
        while not self._last:
            asked += 1
            delay, tokens = self._dice.choice((2, 5, 10, 20)), self._dice.choice((10, 40, 100, 400))
            prompt = f"delay={delay} client {number} asks {asked}"
            answer = await chat(client, prompt, max_tokens=tokens)
            self.answers.append(answer)
            if not answer.complete:
                if answer.done:
                    self.faults.append(f"half an answer was told as a whole one: {answer}")
                return
            if answer.text.split() != echoed(prompt, tokens).split():
                self.faults.append(f"wrong words: {answer}")


class Round:
    """One kill, and what became of the answers."""

    def __init__(self, node: Node, victim: str, dice: random.Random) -> None:
        self._node, self._victim, self._dice = node, victim, dice
        self.load = Load(node, dice)
        self.gone_s = 0.0
        self._running: asyncio.Task[None]

    async def kill(self, *, wait: bool) -> None:
        """Kills under load; with `wait` until nothing of the node is left."""
        node, state = self._node, self._node.state
        pid = node.process.pid if self._victim == "tether up" else root_pid(state["root"])
        self._running = asyncio.create_task(self.load.run())
        await asyncio.sleep(self._dice.uniform(1.0, 2.5))
        began = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        self.load.stop()
        if wait or self._victim != "tether up":  # which ends by itself when its root is gone

            async def gone() -> bool:
                node.process.poll()
                return not any(of_home(node.folder / ".tether"))

            await until(gone, "nothing of the node is left running", GONE_S)
            self.gone_s = time.monotonic() - began
        await asyncio.to_thread(node.process.wait, GONE_S)

    async def answered(self) -> list[Answer]:
        """All answers, once the last has ended, well or not."""
        await self._running
        return self.load.answers


def root_pid(address: str) -> int:
    """An address is node/pid-number/port."""
    return int(address.split("/")[1].partition("-")[0])


async def unbilled(database: asyncpg.Connection, answers: list[Answer]) -> list[str]:
    """The faults of these whole answers: each has one bill, over what it was said to cost."""
    rows = await database.fetch(BILLS, [answer.token for answer in answers])
    bills = Counter(row["retry_token"] for row in rows)
    tokens = {row["retry_token"]: row["completion_tokens"] for row in rows}
    faults = []
    for answer in answers:
        wanted = answer.usage["completion_tokens"]
        if bills[answer.token] != 1:
            faults.append(f"{answer.id} was delivered and billed {bills[answer.token]} times")
        elif tokens[answer.token] != wanted:
            faults.append(f"{answer.id} has {wanted} tokens, billed {tokens[answer.token]}")
    return faults


async def prove(rounds: int) -> int:
    """The number of faults."""
    dice, launcher, faults = random.Random(SEED), Launcher(), 0
    delivered = broken = 0
    print(f"{'':4}{'killed':12}{'whole':>7}{'broken':>8}{'gone after':>12}{'up again':>10}  faults")
    with tempfile.TemporaryDirectory(prefix="owners-") as name:
        folder = Path(name)
        write_config(folder, models=ECHO + "count = 2\n", more=CONFIG)
        try:
            node = await asyncio.to_thread(launcher, folder)
            key = node.key
            for number in range(2 * rounds):
                victim = ("tether up", "root")[number % 2]
                once = Round(node, victim, dice)
                await once.kill(wait=number % 4 < 2)
                began = time.monotonic()
                node = launcher.start(folder)
                node.key = key
                await asyncio.to_thread(node.wait_ready)
                up_s = time.monotonic() - began
                answers = await once.answered()
                whole = [answer for answer in answers if answer.complete]
                database = await asyncpg.connect(node.state["dsn"])
                try:
                    found = once.load.faults + await unbilled(database, whole)
                finally:
                    await database.close()
                faults += len(found)
                delivered += len(whole)
                broken += len(answers) - len(whole)
                gone = f"{once.gone_s:.1f} s" if once.gone_s else "-"
                print(
                    f"{'NOT' if found else 'ok':4}{victim:12}{len(whole):7}"
                    f"{len(answers) - len(whole):8}{gone:>12}{up_s:8.1f} s"
                    f"  {'; '.join(found[:3])}",
                    flush=True,
                )

            async def swept() -> bool:
                return not await node.sql(OPEN)

            await until(swept, "no lease and no unsettled job is left", SWEPT_S)
            twice = await node.sql("SELECT count(*) - count(DISTINCT retry_token) FROM jobs")
            bills = await node.sql("SELECT count(*) FROM ledger")
            faults += twice
            print(
                f"{delivered} answers delivered whole, {broken} not; {bills} bills, {twice} twice"
            )
            if node.stop() != 0:
                faults += 1
        finally:
            launcher.close()
    return faults


if __name__ == "__main__":
    clean_up_on_sigterm()
    sys.exit(1 if asyncio.run(prove(int(sys.argv[1]) if sys.argv[1:] else 20)) else 0)
