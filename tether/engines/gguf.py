"""The gguf engine: llama.cpp out of a wheel, no compiler and no torch.

Batch, sampling, text and stop strings are those of every engine here, so seeds reproduce and
an answer that was broken off goes on from its ids. llama.cpp's numbers depend a little on what
else is in a pass, hence `prefix`: what was sent stands, the tail may differ from an undisturbed
run.
"""

from __future__ import annotations

from tether.engines import llama, lora
from tether.engines.batching import BatchEngine, Loaded
from tether.engines.chat_template import ChatTemplate
from tether.engines.engine import Capabilities
from tether.engines.llama_model import LlamaModel
from tether.engines.weights import adapter_of, prepare


class GgufEngine(BatchEngine):
    """See the module."""

    _model: LlamaModel
    _template: ChatTemplate | None = None

    def _load(self) -> Loaded:
        options = self._options
        path = prepare(self._card, options.cache_dir)
        assert path is not None
        model = self._model = LlamaModel(
            path,
            slots=options.slots,
            context=self._card.context,
            threads=options.threads,
            batch_tokens=options.slots + options.prefill_tokens,
            adapter=adapter_of(self._card),
        )
        if source := model.chat_template():
            self._template = ChatTemplate(source, model.special())
        kind, width = model.describe()
        return Loaded(
            model=model,
            table=model.table(),
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

    def _encode(self, text: str, *, special: bool) -> tuple[int, ...]:
        return self._model.encode(text, special=special)
