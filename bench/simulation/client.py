"""Clients at a front door: they ask, leave, come back through a restarted gateway, ask twice."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import suppress
from zlib import crc32

from actors.contracts import Completed, Infer, Sampling, SetBreaker, TextInput
from bench.simulation.cast import CARDS, answer
from bench.simulation.process import Body, Process
from supervision.errors import Draining, PeerLost, TetherError

GATEWAYS = 2
PAUSE_S = 0.03
OVERTIME_S = 1.0
MISFORTUNES = {
    "answer_gone",
    "deadline_exceeded",
    "draining",
    "no_answer",
    "overloaded",
    "unavailable",
    "worker_lost",
}
"""What may come of a good request, seen by its client; all else would blame it, or is a bug."""


class Door(Body):
    """A process with clients."""

    def __init__(self, process: Process) -> None:
        super().__init__(process)
        process.alive = True

    async def request(self, number: int, dice: random.Random) -> None:
        """One client's request, and perhaps the same again under its idempotency key."""
        explicit = dice.random() < 0.5
        deadline_s = dice.uniform(1.5, 4.0)
        leaves_after = dice.randrange(6) if dice.random() < 0.15 else None
        whole = dice.random() < 0.2
        again_s = dice.uniform(0, 1.0) if explicit and dice.random() < 0.5 else None
        ask = Infer(
            correlation_id=str(number),
            credential=f"t{number % 3}",
            model_ref=dice.choice(CARDS).ref if self.process.world.tight else CARDS[0].ref,
            input=TextInput(prompt=f"prompt {number} {dice.randrange(1000)}"),
            sampling=Sampling(max_tokens=64),
            retry_token=f"token-{number}",
            explicit_token=explicit,
            fingerprint=b"%d" % number,
            deadline_s=deadline_s,
            stream=not whole,
        )
        if again_s is not None:
            self.process.task(self._later(ask, again_s))
        await self._ask(ask, leaves_after)

    async def operate(self, worker_id: str, mode: str) -> None:
        """An operator sets the breakers of a worker."""
        scheduler = self.process.world.running("control/scheduler")
        laws = self.process.world.laws
        said = laws.said
        if scheduler is not None:
            said[worker_id] = waits = f"{mode} at {self.process.world.now}"
            alone = worker_id not in laws.saying  # else either may be the last to arrive
            laws.saying[worker_id] += 1  # for good if no answer comes: it may still arrive
            with suppress(TetherError):
                await self.ask(scheduler, SetBreaker(worker_id=worker_id, mode=mode))
                laws.saying -= Counter((worker_id,))
                if said[worker_id] == waits and alone:
                    said[worker_id] = mode
                self.process.world.trace.add("breaker", worker_id, mode)

    async def _later(self, ask: Infer, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self._ask(ask, None, self.process.world.dice.random() < 0.5)

    async def _ask(self, ask: Infer, leaves_after: int | None, elsewhere: bool = False) -> None:
        world = self.process.world
        outcome = "late"
        try:
            async with asyncio.timeout(ask.deadline_s + OVERTIME_S):
                outcome = await self._read(ask, leaves_after, elsewhere)
        except TimeoutError:
            pass
        world.outcomes[outcome] = world.outcomes.get(outcome, 0) + 1
        world.trace.add("client", ask.retry_token, outcome)

    async def _read(self, ask: Infer, leaves_after: int | None, elsewhere: bool) -> str:
        world = self.process.world
        assert isinstance(ask.input, TextInput)
        expected = answer(ask.input.prompt)
        until = world.now + ask.deadline_s
        tokens: list[int] = []
        text = ""
        is_resume = False
        path = f"control/gateway{(crc32(ask.credential.encode()) + elsewhere) % GATEWAYS}"
        while world.now < until:
            address = world.running(path)
            if address is None:
                await asyncio.sleep(PAUSE_S)
                continue
            remaining_s = max(0.001, until - world.now)
            opening = Infer(
                **{
                    **{name: getattr(ask, name) for name in ask.__struct_fields__},
                    "from_seq": len(tokens),
                    "deadline_s": remaining_s,
                    "is_resume": is_resume,
                }
            )
            is_resume = True
            stream = self.stream(address, opening)
            try:
                async for item in stream:
                    world.laws.item(tokens, expected, item)
                    text += item.text
                    if isinstance(item, Completed):
                        world.laws.text(text, expected)
                        world.laws.completed[ask.credential, ask.retry_token] = None
                        return "completed"
                    if leaves_after is not None and len(tokens) >= leaves_after:
                        stream.close()
                        return "left"
            except (PeerLost, Draining):
                await asyncio.sleep(PAUSE_S)
            except TetherError as error:
                # A stream that was cut elsewhere may not go on; but an answer is kept.
                gone = error.code == "answer_gone"
                if error.code not in MISFORTUNES or (
                    gone and (not ask.explicit_token or error.param)
                ):
                    world.laws.broken(f"a client was told {error.code}: {error.message}")
                world.laws.told_late(error, until - world.now)
                return error.code
        return "late"
