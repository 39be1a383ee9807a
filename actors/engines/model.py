"""A causal language model of transformers, run over a slot cache."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from actors.contracts import ModelCard
from actors.engines.device import device
from actors.engines.folder import unloadable
from actors.engines.lora import Adapter
from actors.engines.merge import merge
from actors.engines.slot_cache import Plan, SlotCache, attention
from actors.engines.span import Span
from actors.errors import ModelUnusable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
ATTENTION = "tether_slots"
PLAIN = {"full_attention", "sliding_attention"}  # the latter if its window covers the context
# the largest difference of logits, relative to their spread, between our attention and the
# model's own; rounding is 1e-6 in float32, a wrong mask or position is above 0.1
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.05}


class SlotModel:
    """The weights, and `forward` from tokens and spans to logits. Belongs to one thread."""

    def __init__(self, net: Any, *, slots: int, context: int) -> None:
        """Take over `net`, a transformers causal model with `sdpa` attention.

        Raises:
            ModelUnusable: its attention cannot be run over slots.
        """
        config = net.config.get_text_config()
        kinds = set(getattr(config, "layer_types", None) or ())
        if not getattr(net, "_supports_attention_backend", False) or kinds - PLAIN:
            raise ModelUnusable(
                f"a {config.model_type} model is not supported; use one whose layers all have "
                "plain attention, such as Llama, Qwen or Mistral"
            )
        self._net = net.eval()
        self.device: torch.device = net.device
        self.vocabulary: int = config.vocab_size
        self.context = min(context, config.max_position_embeddings)
        window = getattr(config, "sliding_window", None)
        if window is not None and window < self.context:
            raise ModelUnusable(
                f"the model looks back {window} tokens only and its context is {self.context}; "
                f"a window is not supported, so set context to at most {window}"
            )
        heads: int = config.num_attention_heads
        self.cache = SlotCache(
            layers=config.num_hidden_layers,
            heads=getattr(config, "num_key_value_heads", None) or heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
            slots=slots,
            context=self.context,
            dtype=net.dtype,
            device=net.device,
        )
        ends = net.generation_config.eos_token_id
        if ends is None:
            ends = config.eos_token_id
        self.ends: frozenset[int] = frozenset(
            () if ends is None else [ends] if isinstance(ends, int) else ends
        )
        self._prove()

    def forward(
        self, ids: Sequence[int], decode: Sequence[Span], prefill: Sequence[Span]
    ) -> NDArray[np.float32]:
        """The logits after the last token of every span, (spans, vocabulary).

        `ids` are the tokens of all spans, in their order. May be repeated: it only writes what
        it would write again.
        """
        logits: NDArray[np.float32] = self._logits(ids, decode, prefill).numpy()
        return logits

    def _logits(
        self, ids: Sequence[int], decode: Sequence[Span], prefill: Sequence[Span]
    ) -> torch.Tensor:
        with torch.inference_mode():
            positions = [span.start for span in decode]
            last = list(range(len(decode)))
            for span in prefill:
                positions.extend(range(span.start, span.start + span.count))
                last.append(len(positions) - 1)
            plan: Plan = self.cache.plan(decode, prefill)
            self.cache.use(plan)
            logits: torch.Tensor = self._net(
                input_ids=self._numbers([ids]),
                position_ids=self._numbers([positions]),
                use_cache=False,
                logits_to_keep=self._numbers(last),
                tether_slots=self.cache,
            ).logits[0]
            return logits.float().cpu()

    def _numbers(self, numbers: Sequence[Any]) -> torch.Tensor:
        return torch.tensor(numbers, dtype=torch.long, device=self.device)

    def _prove(self) -> None:
        """Compare with the model's own attention, so that an unheard-of model cannot answer
        nonsense; also the warm-up."""
        from transformers import AttentionInterface

        AttentionInterface.register(ATTENTION, attention)
        count = min(9, self.context)
        ids = [(7 * i + 3) % self.vocabulary for i in range(count)]
        with torch.inference_mode():
            own = self._net(input_ids=self._numbers([ids]), use_cache=False).logits[0].float().cpu()
        self._net.set_attn_implementation(ATTENTION)
        self.cache.reserve(1, count)
        try:
            half = count // 2
            rows = [
                self._logits(ids[:half], (), (Span(0, 0, half),)),
                self._logits(ids[half : count - 1], (), (Span(0, half, count - 1 - half),)),
                self._logits(ids[count - 1 :], (Span(0, count - 1, 1),), ()),
            ]
        except TypeError as error:  # its forward takes other arguments
            raise ModelUnusable(f"this model cannot be run over slots: {error}") from error
        finally:
            self.cache.release()
        ours = torch.cat(rows)
        theirs = own[[half - 1, count - 2, count - 1]]
        spread = float(theirs.std()) or 1.0
        off = float((ours - theirs).abs().max()) / spread
        if not off <= _TOLERANCE[self._net.dtype]:
            raise ModelUnusable(
                f"this model answers differently over slots (logits are off by {off:.2g} of their "
                "spread); its attention is of a kind that is not supported"
            )


def load(
    folder: Path, card: ModelCard, *, slots: int, threads: int, adapter: Adapter | None = None
) -> SlotModel:
    """Load a checked model folder, and merge `adapter` into it. Never goes to the network, never
    runs code from the folder.

    Raises:
        ModelUnusable: the folder's content cannot be loaded, or not as this kind of model; or the
            adapter was made for another one.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    if card.dtype not in DTYPES:
        raise ModelUnusable(f"model {card.ref} has dtype {card.dtype!r}; use float32 or bfloat16")
    torch.set_num_threads(threads)
    with contextlib.suppress(RuntimeError):  # it can be set only once a process
        torch.set_num_interop_threads(1)
    try:
        net, report = transformers.AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=DTYPES[card.dtype],
            attn_implementation="sdpa",
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    except Exception as error:  # whatever config and weights can provoke in the libraries
        raise unloadable(folder, error) from error
    if missing := sorted(report["missing_keys"]):
        raise ModelUnusable(
            f"{folder} lacks {len(missing)} weights, {missing[0]} first; fetch the model again"
        )
    if adapter is not None:
        merge(net, adapter)
    try:
        net = net.to(device())
    except torch.cuda.OutOfMemoryError as error:
        raise ModelUnusable(
            f"the GPU has no memory left for model {card.ref} "
            f"({str(error).splitlines()[0]}); give it another one, see workers.gpus"
        ) from error
    return SlotModel(net, slots=slots, context=card.context)
