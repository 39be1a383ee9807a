"""The protocol of slots: what the batcher needs of the place where keys and values lie."""

from __future__ import annotations

from typing import Protocol


class Slots(Protocol):
    """Keys and values of many answers, each in a slot; `SlotCache` is one. Finished ones may be
    kept, and answers of the same scope begin with them."""

    @property
    def worth(self) -> int:
        """Fewer tokens than these are computed sooner than copied."""

    @property
    def evicted(self) -> int:
        """Tokens of finished answers that were given up for others."""

    @property
    def memory_bytes(self) -> int:
        """What the answers hold now."""

    @property
    def kept_bytes(self) -> int:
        """What is kept of finished ones."""

    def allow(self, prefix_bytes: int) -> bool:
        """Finished answers may hold this much from now on; what is kept goes. False: answers can't
        be copied here."""

    def reserve(self, slots: int, length: int) -> None:
        """Make room for `slots` answers of `length` tokens."""

    def move(self, source: int, target: int, length: int) -> None:
        """The answer in `source`, of `length` tokens, is in `target` from now on."""

    def copy(self, source: int, target: int, length: int) -> None:
        """The answer in `target` begins with the first `length` tokens of that in `source`."""

    def keep(self, slot: int, scope: str, tokens: tuple[int, ...]) -> None:
        """The answer in `slot` has taken in these tokens and is gone: keep what there is room
        for. `free` follows."""

    def kept(self, scope: str, tokens: tuple[int, ...]) -> int:
        """How many of `tokens`, from the first on, are kept."""

    def recall(self, slot: int, scope: str, tokens: tuple[int, ...]) -> None:
        """The answer in `slot` begins with `tokens`, just as many as `kept` has said. The slot
        may hold a shorter beginning of them."""

    def free(self, slot: int) -> None:
        """The answer in `slot` is gone."""

    def clear(self, slot: int) -> None:
        """Forget a slot that a fault has left in an unknown state."""

    def release(self) -> None:
        """No answer runs; give back what can be."""
