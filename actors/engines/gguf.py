"""The gguf engine: llama.cpp out of a wheel, no compiler and no torch.

Batch, sampling, text and stop strings are those of every engine here, so seeds reproduce and
an answer that was broken off goes on from its ids. llama.cpp's numbers depend a little on what
else is in a pass, hence `prefix`: what was sent stands, the tail may differ from an undisturbed
run.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from actors.contracts import ModelCard
from actors.engines import gguf_file, llama, smollm2, weights
from actors.engines.batch_engine import BatchEngine, Loaded
from actors.engines.engine import Capabilities, EngineOptions
from actors.engines.weights import Progress, silent

if TYPE_CHECKING:
    from actors.engines.chat_template import ChatTemplate
    from actors.engines.llama_model import LlamaModel


def prepare(card: ModelCard, cache_dir: Path, progress: Progress = silent) -> Path:
    """See `factory.prepare`."""
    _adapter(card)
    return weights.local(card, smollm2.SOURCE, gguf_file.find) or smollm2.gguf()


def create(card: ModelCard, options: EngineOptions) -> GgufEngine:
    """See `factory.create`."""
    return GgufEngine(card, options)


def _adapter(card: ModelCard) -> Path | None:
    if not card.adapter:
        return None
    from actors.engines import llama_adapter  # with numpy, which a node without models has not

    return llama_adapter.check(Path(card.adapter).expanduser())


class GgufEngine(BatchEngine):
    """See the module."""

    _model: LlamaModel
    _template: ChatTemplate | None = None

    def _load(self) -> Loaded:
        from actors.engines import lora
        from actors.engines.chat_template import ChatTemplate
        from actors.engines.llama_model import LlamaModel

        options = self._options
        path = prepare(self._card, options.cache_dir)
        model = self._model = LlamaModel(
            path,
            slots=options.slots,
            context=self._card.context,
            threads=options.threads,
            batch_tokens=options.slots + options.prefill_tokens,
            adapter=_adapter(self._card),
        )
        if source := model.chat_template():
            self._template = ChatTemplate(source, model.special())
        kind, width = model.describe()
        return Loaded(
            model=model,
            table=model.table(),
            control=model.control(source),
            capabilities=Capabilities(
                resume="prefix",
                tag="/".join(
                    (
                        "gguf",
                        kind.replace(" ", "-"),
                        f"{llama.PACKAGE}-{llama.VERSION}",
                        width,
                        *([lora.tag(model.adapter)] if model.adapter else []),
                    )
                ),
                context=model.context,
                chat=self._template is not None,
            ),
            unload=model.close,
        )

    def _templated(self, messages: list[dict[str, str]]) -> str:
        assert self._template is not None
        return self._template.render(messages)

    def _encode(self, text: str, *, special: bool, plain: bool = False) -> tuple[int, ...]:
        return self._model.encode(text, special=special, plain=plain)
