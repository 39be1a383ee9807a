"""Thespian's messages, from a process of the own node and from an Admin of another one."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from thespian.actors import ActorAddress

from bench.fuzz.mutation import packed_changed
from bench.fuzz.target import Target
from supervision.errors import ProtocolError
from supervision.runtime.address import Address
from supervision.runtime.packed import GROWTH, SLACK, pack
from supervision.runtime.system_fields import Kind
from supervision.runtime.system_messages import ROWS, encode
from supervision.runtime.system_road import SystemRoad

HERE, OWN = Address("n1", "12-ab", 4001), Address("n1", "77-cd", 4002)
ADMIN = Address("n2", "admin", 1900)
_GUESSES: tuple[Any, ...] = (
    *(ADMIN, OWN, 1, 3.5, True, None, "a.B", {"gpu": True, "at": (1, [ADMIN])}, []),
    *(["", 1], ["ActorExitRequest", True]),
)


def _seeds() -> tuple[bytes, ...]:
    """A message of every row: of each field a value that it takes."""
    seeds = [encode("plain"), encode([ActorAddress(ADMIN), {"k": (1, 2.5, b"x")}])]
    for row in ROWS:
        fields = [_guessed(kind) for kind in row.fields.values()]
        seeds.append(pack([row.cls.__name__, *fields]))
    return tuple(seeds)


def _guessed(kind: Kind) -> Any:
    for guess in _GUESSES:
        with suppress(ValueError, ProtocolError):
            kind.take(ActorAddress(guess) if isinstance(guess, Address) else guess)
            return guess
    raise LookupError(f"no guess is one of {kind}: add one")


def read(data: bytes) -> object:
    """Both read it: what one refuses for its sender, the other may take."""
    own, other = SystemRoad(HERE), SystemRoad(HERE, "n2")
    try:
        return own.read(OWN, data)
    finally:
        other.read(ADMIN, data)


TARGET = Target(
    name="system messages",
    read=read,
    seeds=_seeds(),
    growth=2 * GROWTH,  # it is read twice
    slack=2 * SLACK,
    ours=(ProtocolError,),
    classes=(Address, ActorAddress, *(row.cls for row in ROWS)),
    change=packed_changed,
)
