"""The transformers engine: a causal language model on torch, over slots of our own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from actors.contracts import ModelCard
from actors.engines import smollm2, weights
from actors.engines.batch_engine import BatchEngine, Loaded
from actors.engines.engine import Capabilities, EngineOptions
from actors.engines.tokenizer import Tokenizer
from actors.engines.weights import Progress, silent
from supervision.telemetry import logs

if TYPE_CHECKING:
    from actors.engines.model import SlotModel

log = logs.get(__name__)


def prepare(card: ModelCard, cache_dir: Path, progress: Progress = silent) -> Path:
    """See `factory.prepare`."""
    weights.peft_adapter(card)
    weights.require_torch(card)
    return weights.local(card, smollm2.SOURCE, weights.whole) or smollm2.converted(
        cache_dir, progress
    )


def create(card: ModelCard, options: EngineOptions) -> TransformersEngine:
    """See `factory.create`."""
    return TransformersEngine(card, options)


class TransformersEngine(BatchEngine):
    """See `BatchEngine`. In float32 it continues exactly, in bfloat16 what was sent stands."""

    _tokenizer: Tokenizer

    def _load(self) -> Loaded:
        # Before torch loads OpenMP: its threads wait by spinning, which on cores that are
        # shared with other processes makes a step 3 to 10 times as slow as sleeping does.
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        folder = prepare(
            self._card,
            self._options.cache_dir,
            lambda what, fraction: log.info("engine.prepare", what=what, fraction=fraction),
        )
        from actors.engines import lora
        from actors.engines.model import load

        self._tokenizer = Tokenizer(folder)
        path = weights.peft_adapter(self._card)
        adapter = lora.read(path) if path is not None else None
        model = load(
            folder,
            self._card,
            slots=self._options.slots,
            threads=self._options.threads,
            adapter=adapter,
        )
        return self._described(model, lora.tag(adapter.digest) if adapter else "")

    def _described(self, model: SlotModel, adapter: str) -> Loaded:
        import torch
        import transformers

        from actors.engines.device import described

        dtype, on_cpu = self._card.dtype, model.device.type == "cpu"

        return Loaded(
            model=model,
            table=self._tokenizer.table(model.vocabulary),
            control=self._tokenizer.control(),
            capabilities=Capabilities(
                # a GPU's kernels change with the size of the batch
                resume="exact" if dtype == "float32" and on_cpu else "prefix",
                tag="/".join(
                    (
                        "transformers",
                        dtype,
                        f"torch-{torch.__version__}",
                        transformers.__version__,
                        described(model.device),
                        *([adapter] if adapter else []),
                    )
                ),
                context=model.context,
                chat=self._tokenizer.chat,
            ),
        )

    def _templated(self, messages: list[dict[str, str]]) -> str:
        return self._tokenizer.templated(messages)

    def _encode(self, text: str, *, special: bool, plain: bool = False) -> tuple[int, ...]:
        return self._tokenizer.encode(text, special=special, plain=plain)
