"""The sampler inside vLLM: a logits processor that leaves each answer one token, our own draw.

vLLM's seeds start a generator, so an answer cannot be taken up in the middle. Here the n-th
token is drawn by `sampling.draw`, keyed by (seed, n), as in every engine; all other tokens get
minus infinity, and vLLM, told to be greedy, takes the one that is left.

Imported in vLLM's own environment only. Made for the first version of vLLM's model runner; see
`vllm.v1.sample.logits_processor.interface`.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality

from actors.contracts import Sampling
from actors.engines.sampling import draw

KEY = "tether"  # in SamplingParams.extra_args


class Draw:
    """How one answer draws, and the one who draws for it writes here what was `wrong`.

    It travels with the answer's SamplingParams through vLLM, which copies them deeply: this
    object stays the same."""

    __slots__ = ("position", "sampling", "wrong")

    def __init__(self, sampling: Sampling, position: int) -> None:
        self.sampling = sampling
        self.position = position  # of the first token that vLLM counts as output
        self.wrong = ""

    def __deepcopy__(self, memo: dict[int, Any]) -> Draw:
        return self


class KeyedSampler(LogitsProcessor):
    """See the module."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self._rows: dict[int, tuple[Draw, list[int]]] = {}

    def is_argmax_invariant(self) -> bool:
        """It decides what is greatest."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Who is in which row: removed, added and moved, in this order."""
        if batch_update is None:
            return
        rows = self._rows
        for at in batch_update.removed:
            rows.pop(at, None)
        for at, params, _, output_ids in batch_update.added:
            if (found := (params.extra_args or {}).get(KEY)) is not None:
                rows[at] = (found, output_ids)
            else:  # vLLM's own, such as a warm-up
                rows.pop(at, None)
        for source, target, direction in batch_update.moved:
            first, second = rows.pop(source, None), rows.pop(target, None)
            if first is not None:
                rows[target] = first
            if second is not None and direction is MoveDirectionality.SWAP:
                rows[source] = second

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """`logits`, (rows, vocabulary), with the drawn tokens alone above minus infinity."""
        finite = torch.isfinite(logits.amax(dim=-1)).tolist()  # of nan, amax is nan
        for at, (asked, output_ids) in self._rows.items():
            if at >= len(finite):
                continue
            if not finite[at]:
                asked.wrong = "FloatingPointError: the model's output is not a number"
                continue
            sampling = asked.sampling
            if sampling.temperature == 0.0:
                continue
            row = logits[at]
            token = draw(
                row.cpu().numpy(),
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                seed=sampling.seed or 0,
                position=asked.position + len(output_ids),
            )
            row.fill_(-torch.inf)
            row[token] = 0.0
        return logits
