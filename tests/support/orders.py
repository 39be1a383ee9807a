"""Requests as clients send them, drawn from a seed: whole and streamed, asked once or twice under
one key, hung up on, or with less time than the answer takes. Pure."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

CHAT: Final = "chat/completions"
TEXT: Final = "completions"
VECTORS: Final = "embeddings"
DEADLINE_S: Final = 60.0
_DELAYS_MS: Final = (2, 5, 10, 20, 40)
_TOKENS: Final = (10, 40, 100, 200)


class Kind(StrEnum):
    """What the client does."""

    PLAIN = "plain"  # asks until it is answered, under a key
    AGAIN = "again"  # and once more when it has been
    BESIDE = "beside"  # and a second time meanwhile
    LEAVES = "leaves"  # hangs up in the middle
    SHORT = "short"  # gives less time than the answer takes
    UNKEYED = "unkeyed"  # asks once, without a key


_SHARES: Final = {
    Kind.PLAIN: 40,
    Kind.AGAIN: 13,
    Kind.BESIDE: 12,
    Kind.LEAVES: 10,
    Kind.SHORT: 10,
    Kind.UNKEYED: 15,
}


@dataclass(frozen=True)
class Order:
    """One request. `leaves_at` is the token after which its client hangs up; of a whole answer,
    what share of its time that is (`tokens`)."""

    key: str
    kind: Kind
    prompt: str
    endpoint: str = CHAT
    stream: bool = False
    tokens: int = 0
    delay_ms: int = 0
    leaves_at: int = 0
    deadline_s: float = DEADLINE_S

    @property
    def takes_s(self) -> float:
        """How long the echo engine says it."""
        return self.tokens * self.delay_ms / 1000

    @property
    def keyed(self) -> bool:
        return self.kind is not Kind.UNKEYED


def drawn(dice: random.Random, count: int, name: str, endpoints: Sequence[str]) -> list[Order]:
    """`count` orders whose keys begin with `name`, a quarter of them asked twice."""
    kinds = dice.choices(list(_SHARES), list(_SHARES.values()), k=count)
    return [_drawn(dice, f"{name}-{n}", kind, endpoints) for n, kind in enumerate(kinds)]


def _drawn(dice: random.Random, key: str, kind: Kind, endpoints: Sequence[str]) -> Order:
    endpoint = dice.choice(endpoints)
    if endpoint == VECTORS and kind not in (Kind.LEAVES, Kind.SHORT):
        return Order(key, kind, f"a text of {key}", VECTORS)
    delay_ms, tokens = dice.choice(_DELAYS_MS), dice.choice(_TOKENS)
    order = Order(
        key, kind, f"delay={delay_ms} {key} says this", CHAT if endpoint == VECTORS else endpoint,
        stream=dice.random() < 0.5, tokens=tokens, delay_ms=delay_ms,
    )  # fmt: skip
    if kind is Kind.LEAVES:
        order = _slow(order)
        return replace(order, leaves_at=dice.randint(1, order.tokens // 2))
    if kind is Kind.SHORT:
        order = _slow(order)
        return replace(order, deadline_s=round(order.takes_s * dice.uniform(0.2, 0.6), 2))
    return order


def _slow(order: Order) -> Order:
    """One that can't be over before its client has left."""
    return replace(
        order, prompt=f"delay=20 {order.key} says this", delay_ms=20, tokens=max(40, order.tokens)
    )
