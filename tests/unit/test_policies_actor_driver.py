"""The policies around a question to an actor."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

from supervision.contracts import Contract, ShowTree
from supervision.errors import PeerLost, Unavailable
from supervision.policies import (
    NEVER,
    Breaker,
    Bulkhead,
    BulkheadOptions,
    Deadline,
    DeadlineOptions,
    Retry,
    RetryOptions,
    Stack,
    Timeout,
    TimeoutOptions,
)
from supervision.policies.actor_driver import ActorDriver
from supervision.policies.async_driver import Attempt

RETRY = RetryOptions(attempts=3, initial_s=0.001, max_s=0.002)


class Parts:
    """A stack whose parts a test looks into."""

    def __init__(self, *, total_s: float = 20.0, attempt_s: float = 10.0) -> None:
        self.breaker = Breaker()
        self.bulkhead = Bulkhead(BulkheadOptions(at_once=4))
        self.stack = Stack(
            Deadline(DeadlineOptions(total_s=total_s)),
            Retry(RETRY, Random(1).random, None),
            self.breaker,
            self.bulkhead,
            Timeout(TimeoutOptions(attempt_s=attempt_s)),
        )

    def counts(self) -> tuple[int, int]:
        return self.breaker.counts(asyncio.get_running_loop().time())


# ---- actors


class Asked:
    """Plays the actor: answers by script."""

    def __init__(self, *answers: object) -> None:
        self.answers = iter(answers)
        self.asked: list[tuple[Any, float]] = []

    async def ask(self, address: Any, contract: Contract, timeout: float = 5.0) -> Any:
        self.asked.append((address, timeout))
        answer = next(self.answers)
        if isinstance(answer, Exception):
            raise answer
        return answer


async def test_an_actor_is_looked_for_at_each_attempt() -> None:
    actor = Asked(PeerLost("gone"), "answer")
    addresses = iter([Unavailable("nobody"), "n1/a", "n1/b"])

    async def find(within_s: float) -> str:
        assert 0 < within_s <= 4.0
        found = next(addresses)
        if isinstance(found, Exception):
            raise found
        return found

    driver = ActorDriver(actor, Parts().stack, find, ask_s=4.0)
    assert await driver.ask(ShowTree()) == "answer"
    assert [address for address, _ in actor.asked] == ["n1/a", "n1/b"]
    assert all(timeout <= 4.0 for _, timeout in actor.asked)
    assert Attempt(1, NEVER).remaining_s() == NEVER
