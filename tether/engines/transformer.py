"""The transformers engine: a causal language model on torch, over slots of our own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tether.engines import lora
from tether.engines.batching import BatchEngine, Loaded
from tether.engines.engine import Capabilities
from tether.engines.folder import unloadable
from tether.engines.weights import adapter_of, prepare
from tether.errors import BadRequest
from tether.telemetry import logs

if TYPE_CHECKING:
    from tether.engines.model import SlotModel

log = logs.get(__name__)


class TransformersEngine(BatchEngine):
    """See `BatchEngine`. In float32 it continues exactly, in bfloat16 what was sent stands."""

    _tokenizer: Any = None

    def _load(self) -> Loaded:
        # Before torch loads OpenMP: its threads wait by spinning, which on cores that are
        # shared with other processes makes a step 3 to 10 times as slow as sleeping does.
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        folder = prepare(
            self._card,
            self._options.cache_dir,
            lambda what, fraction: log.info("engine.prepare", what=what, fraction=fraction),
        )
        assert folder is not None
        from tether.engines.model import load

        self._open_tokenizer(folder)
        path = adapter_of(self._card)
        adapter = lora.read(path) if path is not None else None
        model = load(
            folder,
            self._card,
            slots=self._options.slots,
            threads=self._options.threads,
            adapter=adapter,
        )
        return self._described(model, lora.tag(adapter.digest) if adapter else "")

    def _open_tokenizer(self, folder: Path) -> None:
        import transformers

        try:
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(
                folder, local_files_only=True
            )
        except Exception as error:  # whatever its files can provoke in the libraries
            raise unloadable(folder, error) from error

    def _described(self, model: SlotModel, adapter: str) -> Loaded:
        import torch
        import transformers

        from tether.engines.device import described
        from tether.engines.text import byte_table

        dtype, on_cpu = self._card.dtype, model.device.type == "cpu"

        return Loaded(
            model=model,
            table=byte_table(self._tokenizer.backend_tokenizer.to_str(), model.vocabulary),
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
                chat=bool(self._tokenizer.chat_template),
            ),
        )

    def _templated(self, messages: list[dict[str, str]]) -> str:
        import jinja2

        try:
            text: str = self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            )
        except jinja2.TemplateError as error:
            raise BadRequest(
                f"the model's chat template refuses these messages: {error}", param="messages"
            ) from None
        return text

    def _encode(self, text: str, *, special: bool) -> tuple[int, ...]:
        encode = self._tokenizer.backend_tokenizer.encode
        return tuple(encode(text, add_special_tokens=special).ids)
