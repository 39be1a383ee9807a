"""The answers in a context of llama.cpp, each in a sequence of its own."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from tether.engines.prefix import common
from tether.engines.span import Span


class LlamaSlots:
    """Which sequence is in which slot, and which ones hold finished answers.

    Sequences keep to themselves (no unified cache), so an answer costs the same whoever is
    beside it, and only a whole one can be copied, with all the room it has. llama.cpp takes all
    memory when the context is made; `memory_bytes` and `kept_bytes` count the part of it that is
    in use. Finished answers stay in sequences that no slot needs, the least recently used go first.
    """

    def __init__(self, lib: Any, context: int, slots: int, *, length: int) -> None:
        """`length`: the tokens that a sequence has room for."""
        self._lib = lib
        self._memory = lib.llama_get_memory(context)
        self._free = list(reversed(range(slots)))
        self._in: dict[int, int] = {}  # slot → sequence
        self._tokens = [0] * slots  # of each sequence
        self._kept: OrderedDict[int, tuple[str, tuple[int, ...]]] = OrderedDict()
        self._room = 0  # tokens that may be kept
        self.worth = max(16, length // 64)
        self.token_bytes = 0
        self.evicted = 0
        self.lends = False
        """Copies and cuts of answers are what they should be; see `LlamaModel`."""

    @property
    def memory_bytes(self) -> int:
        """What the answers hold."""
        return sum(self._tokens[held] for held in tuple(self._in.values())) * self.token_bytes

    @property
    def kept_bytes(self) -> int:
        """What finished answers hold."""
        return sum(self._tokens[held] for held in tuple(self._kept)) * self.token_bytes

    def allow(self, prefix_bytes: int) -> bool:
        """See `Slots.allow`."""
        for sequence in tuple(self._kept):
            self._forget(sequence)
        self._room = prefix_bytes // max(1, self.token_bytes) if self.lends else 0
        return self.lends

    def reserve(self, slots: int, length: int) -> None:
        """All there can be is there."""

    def begin(self, span: Span) -> int:
        """The sequence of `span`, whose tokens come next: whatever is there from its start on is
        forgotten, such as what a failed attempt has left."""
        sequence = self._sequence(span.slot)
        self._cut(sequence, span.start)
        self._tokens[sequence] = span.start + span.count
        return sequence

    def move(self, source: int, target: int, length: int) -> None:
        """The answer in `source` is in `target` from now on."""
        self.free(target)
        self._in[target] = self._in.pop(source)

    def copy(self, source: int, target: int, length: int) -> None:
        """See `Slots.copy`."""
        self._copy(self._in[source], self._sequence(target), length)

    def keep(self, slot: int, scope: str, tokens: tuple[int, ...]) -> None:
        """See `Slots.keep`."""
        tokens = tokens[: self._room]
        found, length = self._find(scope, tokens)
        if length == len(tokens):
            if found >= 0:
                self._kept.move_to_end(found)
            return
        if found >= 0 and length == len(self._kept[found][1]):
            self._forget(found)  # it is the beginning of this one
        held = sum(self._tokens[sequence] for sequence in self._kept)
        while held + len(tokens) > self._room:
            held -= self._evict()
        sequence = self._in.pop(slot)
        self._cut(sequence, len(tokens))
        self._kept[sequence] = scope, tokens

    def kept(self, scope: str, tokens: tuple[int, ...]) -> int:
        """See `Slots.kept`."""
        return self._find(scope, tokens)[1]

    def recall(self, slot: int, scope: str, tokens: tuple[int, ...]) -> None:
        """See `Slots.recall`. One that this answer only continues is handed over, and so is one
        that there is no other sequence to copy into."""
        found, length = self._find(scope, tokens)
        assert length == len(tokens)
        self._kept.move_to_end(found)
        room = self._free or slot in self._in or len(self._kept) > 1
        if room and length < len(self._kept[found][1]):
            self._copy(found, self._sequence(slot), length)
            return
        del self._kept[found]
        self.free(slot)
        self._in[slot] = found
        self._cut(found, length)

    def free(self, slot: int) -> None:
        """Forget the answer in `slot`."""
        sequence = self._in.pop(slot, -1)
        if sequence >= 0:
            self._empty(sequence)

    clear = free

    def release(self) -> None:
        """No answer runs. The buffers stay: llama.cpp makes them with the context."""
        for slot in tuple(self._in):
            self.free(slot)

    def _sequence(self, slot: int) -> int:
        """Where the answer in `slot` is; there are as many sequences as slots, so there is one."""
        sequence = self._in.get(slot, -1)
        if sequence < 0:
            if not self._free:
                self._evict()
            sequence = self._in[slot] = self._free.pop()
        return sequence

    def _copy(self, source: int, target: int, length: int) -> None:
        self._lib.llama_memory_seq_rm(self._memory, target, -1, -1)
        self._lib.llama_memory_seq_cp(self._memory, source, target, -1, -1)
        self._cut(target, length)

    def _cut(self, sequence: int, length: int) -> None:
        self._lib.llama_memory_seq_rm(self._memory, sequence, length or -1, -1)
        self._tokens[sequence] = length

    def _empty(self, sequence: int) -> None:
        self._cut(sequence, 0)
        self._free.append(sequence)

    def _find(self, scope: str, tokens: tuple[int, ...]) -> tuple[int, int]:
        """The kept sequence that has most of `tokens` at its beginning, and how many."""
        best, length = -1, 0
        for sequence, (whose, held) in self._kept.items():
            if whose == scope and (found := common(held, tokens)) > length:
                best, length = sequence, found
        return best, length

    def _forget(self, sequence: int) -> int:
        """What it held."""
        del self._kept[sequence]
        tokens = self._tokens[sequence]
        self._empty(sequence)
        return tokens

    def _evict(self) -> int:
        tokens = self._forget(next(iter(self._kept)))
        self.evicted += tokens
        return tokens
