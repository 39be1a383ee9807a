"""Keys and values of many answers, each in a slot of its own, and the attention over them.

One forward pass takes the tokens of all answers as one flat sequence: first one token of
each running answer (slots 0, 1, … without a hole), then stretches of prompts. All layers but
attention see nothing of it. Attention is done here, by plugging `attend` into transformers'
attention interface: it files the new keys and values in their slots and lets every token look
at its own slot only.

The query heads that share a key head are handed to the kernel as that head's queries, so keys
and values are read in place, never repeated. Everything past an answer's end is masked with
-inf and so adds an exact 0; it must be finite, hence `clear` after a fault.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

from actors.engines.prefix import Prefixes
from actors.engines.span import Span
from actors.errors import ModelUnusable

BLOCK = 256  # tokens by which slots grow at first


@dataclass(frozen=True, slots=True)
class Plan:
    """What one forward pass reads and writes: `decode` slots take one token each, at
    `positions` (shape (decode,)); `mask` is (decode, 1, 1, longest), 0 or -inf; then come the
    `prefill` spans with a mask each, None where the prompt begins."""

    first: int
    decode: int
    longest: int
    rows: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor
    prefill: tuple[tuple[Span, torch.Tensor | None], ...]


class SlotCache:
    """Slots for at most `slots` answers of at most `context` tokens. Memory is taken in
    doubling blocks as they are needed, and given back by `release`. What is kept of finished
    answers is outside of the slots: a tensor (layers, keys and values; heads; tokens; dim) for
    each stretch."""

    def __init__(
        self,
        *,
        layers: int,
        heads: int,
        head_dim: int,
        slots: int,
        context: int,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
    ) -> None:
        self._shape = (heads, head_dim)
        self._dtype = dtype
        self._device = torch.device(device)
        self._most = (slots, context)
        self._size = (0, 0)
        self._keys = [self._nothing] * layers
        self._values = [self._nothing] * layers
        self._plan: Plan | None = None
        self._token_bytes: int = 2 * layers * heads * head_dim * dtype.itemsize
        self._prefixes = Prefixes(0, _cut)

    @property
    def _nothing(self) -> torch.Tensor:
        return torch.zeros(0, device=self._device)

    @property
    def memory_bytes(self) -> int:
        """What the slots hold now, in bytes."""
        return int(sum(tensor.nbytes for tensor in (*self._keys, *self._values)))

    worth = 16  # see `Slots.worth`

    @property
    def kept_bytes(self) -> int:
        """What finished answers hold, beside the slots."""
        return self._prefixes.tokens * self._token_bytes

    @property
    def evicted(self) -> int:
        """See `Slots.evicted`."""
        return self._prefixes.evicted

    def allow(self, prefix_bytes: int) -> bool:
        """See `Slots.allow`."""
        evicted = self.evicted
        self._prefixes = Prefixes(prefix_bytes // self._token_bytes, _cut)
        self._prefixes.evicted = evicted
        return True

    def reserve(self, slots: int, length: int) -> None:
        """Make room for `slots` answers of `length` tokens."""
        have_slots, have_length = self._size
        if slots <= have_slots and length <= have_length:
            return
        grown = (
            have_slots if slots <= have_slots else min(self._most[0], max(slots, 2 * have_slots)),
            have_length
            if length <= have_length
            else min(self._most[1], max(length, 2 * have_length, BLOCK)),
        )
        heads, head_dim = self._shape
        # one tensor at a time, so the old and the new never stand side by side in full
        for store in (self._keys, self._values):
            for layer, old in enumerate(store):
                shape = grown[0], heads, grown[1], head_dim
                new = torch.zeros(shape, dtype=self._dtype, device=self._device)
                if have_slots:
                    new[:have_slots, :, :have_length] = old
                store[layer] = new
        self._size = grown

    def release(self) -> None:
        """Give all memory back; no answer runs."""
        self._size = (0, 0)
        for store in (self._keys, self._values):
            store[:] = [self._nothing] * len(store)

    def free(self, slot: int) -> None:
        """The answer in `slot` is gone. Its place is written over; memory goes by `release`."""

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` tokens of a slot over another."""
        for store in (self._keys, self._values):
            for tensor in store:
                tensor[target, :, :length] = tensor[source, :, :length]

    copy = move

    def keep(self, slot: int, scope: str, tokens: tuple[int, ...]) -> None:
        """See `Slots.keep`."""
        self._prefixes.add(scope, tokens, lambda start, end: self._stretch(slot, start, end))

    def _stretch(self, slot: int, start: int, end: int) -> torch.Tensor:
        stores = (*self._keys, *self._values)
        heads, head_dim = self._shape
        shape = len(stores), heads, end - start, head_dim
        piece = torch.empty(shape, dtype=self._dtype, device=self._device)
        for part, store in zip(piece, stores, strict=True):
            part.copy_(store[slot, :, start:end])
        return piece

    def kept(self, scope: str, tokens: tuple[int, ...]) -> int:
        """See `Slots.kept`."""
        return self._prefixes.length(scope, tokens)

    def recall(self, slot: int, scope: str, tokens: tuple[int, ...]) -> None:
        """See `Slots.recall`."""
        at = 0
        for piece, count in self._prefixes.find(scope, tokens):
            for part, store in zip(piece, (*self._keys, *self._values), strict=True):
                store[slot, :, at : at + count] = part[:, :count]
            at += count
        assert at == len(tokens)

    def clear(self, slot: int) -> None:
        """Forget a slot that may hold nan: masked or not, nan would spread."""
        for store in (self._keys, self._values):
            for tensor in store:
                tensor[slot].zero_()

    def plan(self, decode: Sequence[Span], prefill: Sequence[Span]) -> Plan:
        """Lay out a forward pass. `decode` spans have one token and adjacent slots."""
        longest = max((span.start for span in decode), default=0) + 1
        device = self._device
        positions = torch.tensor([s.start for s in decode], dtype=torch.long, device=device)
        mask = torch.zeros(len(decode), 1, 1, longest, dtype=self._dtype, device=device)
        later = torch.arange(longest, device=device) > positions[:, None, None, None]
        mask.masked_fill_(later, float("-inf"))
        return Plan(
            first=decode[0].slot if decode else 0,
            decode=len(decode),
            longest=longest,
            rows=torch.tensor([s.slot for s in decode], dtype=torch.long, device=device),
            positions=positions,
            mask=mask,
            prefill=tuple((span, self._causal(span)) for span in prefill),
        )

    def _causal(self, span: Span) -> torch.Tensor | None:
        if span.start == 0:
            return None  # the kernel's own causal mask does
        end = span.start + span.count
        device = self._device
        mask = torch.zeros(span.count, end, dtype=self._dtype, device=device)
        at = torch.arange(end, device=device)
        later = at > at[span.start :, None]
        return mask.masked_fill_(later, float("-inf"))

    def use(self, plan: Plan) -> None:
        """The next forward pass follows `plan`."""
        self._plan = plan

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scaling: float | None,
    ) -> torch.Tensor:
        """Attention of one layer over the slots.

        `query` is (1, heads, tokens, dim), `key` and `value` (1, key heads, tokens, dim); the
        result is (1, tokens, heads, dim).
        """
        plan = self._plan
        assert plan is not None, "use(plan) comes before a forward pass"
        keys, values = self._keys[layer], self._values[layer]
        _, heads, tokens, dim = query.shape
        groups = key.shape[1]
        out = query.new_empty(1, tokens, heads, dim)
        n = plan.decode
        if n:
            keys[plan.rows, :, plan.positions] = key[0, :, :n].transpose(0, 1)
            values[plan.rows, :, plan.positions] = value[0, :, :n].transpose(0, 1)
            rows = slice(plan.first, plan.first + n)
            out[0, :n] = F.scaled_dot_product_attention(
                query[0, :, :n].transpose(0, 1).reshape(n, groups, heads // groups, dim),
                keys[rows, :, : plan.longest],
                values[rows, :, : plan.longest],
                attn_mask=plan.mask,
                scale=scaling,
            ).reshape(n, heads, dim)
        at = n
        for span, mask in plan.prefill:
            there = slice(at, at + span.count)
            end = span.start + span.count
            keys[span.slot, :, span.start : end] = key[0, :, there]
            values[span.slot, :, span.start : end] = value[0, :, there]
            out[0, there] = F.scaled_dot_product_attention(
                query[:, :, there],
                keys[None, span.slot, :, :end],
                values[None, span.slot, :, :end],
                attn_mask=mask,
                is_causal=mask is None and span.count > 1,
                scale=scaling,
                enable_gqa=groups != heads,
            )[0].transpose(0, 1)
            at += span.count
        return out


def _cut(piece: torch.Tensor, at: int) -> tuple[torch.Tensor, torch.Tensor]:
    return piece[:, :, :at].clone(), piece[:, :, at:].clone()


def attention(  # noqa: PLR0917 - the interface of transformers
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    tether_slots: SlotCache | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """`SlotCache.attend` in the form of transformers' AttentionInterface; the model's forward
    hands `tether_slots` through.

    Raises:
        ModelUnusable: the model does more than softmax over its slot.
    """
    if tether_slots is None or kwargs.get("softcap") or kwargs.get("s_aux") is not None:
        raise ModelUnusable(
            "this model's attention is more than softmax over its slot; take one whose is plain"
        )
    return tether_slots.attend(module.layer_idx, query, key, value, scaling), None
