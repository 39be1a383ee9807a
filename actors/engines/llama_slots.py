"""The answers in a context of llama.cpp: slot n is its sequence n."""

from __future__ import annotations

import ctypes
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from actors.engines.prefix import common
from actors.engines.span import Span

MOST_KEPT = 256  # finished answers: all of them are looked at


@dataclass(frozen=True, slots=True, eq=False)
class _Kept:
    scope: str
    tokens: tuple[int, ...]
    state: Any  # ctypes array of bytes


def _room(size: int) -> Any:
    return (ctypes.c_uint8 * size)()


class LlamaSlots:
    """Sequences keep to themselves (no unified cache), so an answer costs the same whoever is
    beside it, and those that run are adjacent, as llama.cpp computes only such in one go.

    llama.cpp takes all memory when the context is made; what `memory_bytes` counts is the part that
    answers hold. Finished ones lie outside of it, as llama.cpp's states of a sequence: as large as
    the answer, whereas `llama_memory_seq_cp` copies all the room there is for one. A state can be
    restored as a whole only, and cut then; so each has all of its tokens, and what several have in
    common is held by each of them.
    """

    worth = 16  # see `Slots.worth`

    def __init__(self, lib: Any, context: int, slots: int) -> None:
        self._lib = lib
        self._context = context
        self._memory = lib.llama_get_memory(context)
        self._tokens = [0] * slots
        self._kept: OrderedDict[_Kept, None] = OrderedDict()  # least recently used first
        self._room = 0
        self._between = _room(0)  # of a copy; kept while answers run: fresh memory costs more
        self.kept_bytes = 0
        self.token_bytes = 0
        self.evicted = 0
        self.lends = False
        """Answers can be copied and cut; `LlamaModel` finds out."""

    @property
    def memory_bytes(self) -> int:
        """What the answers hold."""
        return sum(self._tokens) * self.token_bytes

    def allow(self, prefix_bytes: int) -> bool:
        """See `Slots.allow`."""
        self._kept.clear()
        self.kept_bytes = 0
        self._room = prefix_bytes if self.lends else 0
        return self.lends

    def reserve(self, slots: int, length: int) -> None:
        """All there can be is there."""

    def begin(self, span: Span) -> None:
        """Tokens of `span` come next: whatever is there from its start on is forgotten, such as
        what a failed attempt has left."""
        self._cut(span.slot, span.start)
        self._tokens[span.slot] = span.start + span.count

    def move(self, source: int, target: int, length: int) -> None:
        """The answer in `source` is in `target` from now on."""
        self.free(target)
        if self.lends:
            self.copy(source, target, length)
        else:
            self._lib.llama_memory_seq_cp(self._memory, source, target, -1, -1)
            self._tokens[target] = length
        self.free(source)

    def copy(self, source: int, target: int, length: int) -> None:
        """See `Slots.copy`."""
        size = self._size(source)
        if len(self._between) < size:
            self._between = _room(size * 5 // 4)
        self._read(source, self._between, size)
        self._restore(target, self._between, size, length)

    def keep(self, slot: int, scope: str, tokens: tuple[int, ...]) -> None:
        """See `Slots.keep`."""
        if len(tokens) * self.token_bytes > self._room:
            tokens = tokens[: self._room // self.token_bytes]
            self._cut(slot, len(tokens))
        found, length = self._find(scope, tokens)
        if found is not None:
            self._kept.move_to_end(found)
        if length == len(tokens):
            return
        if found is not None and length == len(found.tokens):
            self._forget(found)  # it is the beginning of this one
        size = self._size(slot)
        while self._kept and (self.kept_bytes + size > self._room or len(self._kept) >= MOST_KEPT):
            oldest = next(iter(self._kept))
            self._forget(oldest)
            self.evicted += len(oldest.tokens)
        if size <= self._room:
            state = _room(size)
            self._read(slot, state, size)
            self._kept[_Kept(scope, tokens, state)] = None
            self.kept_bytes += size

    def kept(self, scope: str, tokens: tuple[int, ...]) -> int:
        """See `Slots.kept`."""
        return self._find(scope, tokens)[1]

    def recall(self, slot: int, scope: str, tokens: tuple[int, ...]) -> None:
        """See `Slots.recall`."""
        found, length = self._find(scope, tokens)
        assert found is not None
        assert length == len(tokens)
        self._kept.move_to_end(found)
        self._restore(slot, found.state, len(found.state), length)

    def free(self, slot: int) -> None:
        """Forget the answer in `slot`."""
        self._cut(slot, 0)

    clear = free

    def release(self) -> None:
        """No answer runs. The buffers stay: llama.cpp makes them with the context."""
        self._lib.llama_memory_clear(self._memory, False)
        self._tokens = [0] * len(self._tokens)
        self._between = _room(0)

    def _cut(self, slot: int, length: int) -> None:
        self._lib.llama_memory_seq_rm(self._memory, slot, length or -1, -1)
        self._tokens[slot] = length

    def _size(self, slot: int) -> int:
        size: int = self._lib.llama_state_seq_get_size(self._context, slot)
        return size

    def _read(self, slot: int, state: Any, size: int) -> None:
        if self._lib.llama_state_seq_get_data(self._context, state, size, slot) != size:
            raise RuntimeError("llama.cpp gave less of an answer than it has")

    def _restore(self, slot: int, state: Any, size: int, length: int) -> None:
        self.free(slot)
        if not self._lib.llama_state_seq_set_data(self._context, state, size, slot):
            raise RuntimeError("llama.cpp didn't take an answer back")
        self._cut(slot, length)

    def _find(self, scope: str, tokens: tuple[int, ...]) -> tuple[_Kept | None, int]:
        """The one that has most of `tokens` at its beginning, and how many."""
        best, length = None, 0
        for kept in self._kept:
            if kept.scope == scope and kept.tokens[:1] == tokens[:1]:
                found = common(kept.tokens, tokens)
                if found > length:
                    best, length = kept, found
        return best, length

    def _forget(self, kept: _Kept) -> None:
        del self._kept[kept]
        self.kept_bytes -= len(kept.state)
