"""The kinds of fields that Thespian's messages have: what each may hold, and how it is said.

`put` makes of an attribute what `packed` can say, `take` the attribute again of what came. Both
raise ValueError with what it must be, for the sentence that names the message and the field. A kind
bounds what it takes on both sides, so nothing leaves that would be refused elsewhere.
"""

from __future__ import annotations

from typing import Any, Protocol

import msgspec
from thespian.actors import ActorAddress
from thespian.system.addressManager import ActorLocalAddress, CannotPickleAddress

from supervision.runtime.address import Address


class Kind(Protocol):
    """What a field may hold."""

    def put(self, value: Any) -> object:
        """
        Raises:
            ValueError: it may not hold this.
            CannotPickleAddress: it holds a child that has no address yet.
        """

    def take(self, packed: Any) -> Any:
        """
        Raises:
            ValueError: it may not hold this.
        """


class TextField(msgspec.Struct, frozen=True):
    """Text of at most `limit` characters."""

    limit: int

    def put(self, value: Any) -> object:
        return self.take(value)

    def take(self, packed: Any) -> Any:
        if type(packed) is not str or len(packed) > self.limit:
            raise ValueError(f"must be text of at most {self.limit} characters")
        return packed


class CutField(msgspec.Struct, frozen=True):
    """Text for people. Whoever sends it cuts it to `limit` characters, and makes it text."""

    limit: int

    def put(self, value: Any) -> object:
        text = value if isinstance(value, str) else str(value)
        if len(text) > self.limit:
            text = f"{text[: self.limit - 1]}…"
        return text.encode("utf-8", "replace").decode()

    def take(self, packed: Any) -> Any:
        return TextField(self.limit).take(packed)


class NumberField(msgspec.Struct, frozen=True):
    """A whole number of `low` to `high`."""

    low: int
    high: int

    def put(self, value: Any) -> object:
        return self.take(int(value) if isinstance(value, int) else value)

    def take(self, packed: Any) -> Any:
        if type(packed) is not int or not self.low <= packed <= self.high:
            raise ValueError(f"must be a whole number in {self.low}..{self.high}")
        return packed


class RealField(msgspec.Struct, frozen=True):
    """A number of `low` to `high`."""

    low: float
    high: float

    def put(self, value: Any) -> object:
        return self.take(value)

    def take(self, packed: Any) -> Any:
        if type(packed) not in (int, float) or not self.low <= packed <= self.high:
            raise ValueError(f"must be a number in {self.low}..{self.high}")
        return packed


class FlagField(msgspec.Struct, frozen=True):
    """True or false."""

    def put(self, value: Any) -> object:
        return bool(value)

    def take(self, packed: Any) -> Any:
        if type(packed) is not bool:
            raise ValueError("must be true or false")
        return packed


class NoField(msgspec.Struct, frozen=True):
    """None, where Thespian could hold what nobody here may say."""

    def put(self, value: Any) -> object:
        return self.take(value)

    def take(self, packed: Any) -> Any:
        if packed is not None:
            raise ValueError("must be None")
        return None


class PlaceField(msgspec.Struct, frozen=True):
    """The address of a process."""

    def put(self, value: Any) -> object:
        return plain_address(value)

    def take(self, packed: Any) -> Any:
        if type(packed) is not ActorAddress:
            raise ValueError("must be an address")
        return packed


class PlainField(msgspec.Struct, frozen=True):
    """Anything plain, see `supervision.runtime.packed`."""

    def put(self, value: Any) -> object:
        return value

    def take(self, packed: Any) -> Any:
        return packed


class MapField(msgspec.Struct, frozen=True):
    """Plain values by at most `limit` names."""

    limit: int

    def put(self, value: Any) -> object:
        if not isinstance(value, dict) or len(value) > self.limit:
            raise ValueError(f"must be a dict of at most {self.limit} entries")
        return value

    def take(self, packed: Any) -> Any:
        return self.put(packed)


class ListField(msgspec.Struct, frozen=True):
    """At most `limit` values of one kind."""

    of: Kind
    limit: int

    def put(self, value: Any) -> object:
        return [self.of.put(one) for one in self._checked(value)]

    def take(self, packed: Any) -> Any:
        return [self.of.take(one) for one in self._checked(packed)]

    def _checked(self, value: Any) -> list[Any]:
        if type(value) is not list or len(value) > self.limit:
            raise ValueError(f"must be a list of at most {self.limit}")
        return value


class MaybeField(msgspec.Struct, frozen=True):
    """A value of a kind, or None."""

    of: Kind

    def put(self, value: Any) -> object:
        return None if value is None else self.of.put(value)

    def take(self, packed: Any) -> Any:
        return None if packed is None else self.of.take(packed)


def plain_address(value: object) -> Address:
    """What Thespian's address `value` stands for.

    Raises:
        ValueError: it is none of ours.
        CannotPickleAddress: it stands for a child that isn't up yet.
    """
    details = getattr(value, "addressDetails", None)
    if isinstance(details, ActorLocalAddress):
        found = details.addressManager.exportAddr(value)
        if found is None:
            raise CannotPickleAddress(value)
        details = found.addressDetails
    if type(details) is not Address:
        raise ValueError("must be an address")
    return details
