"""The embedding engine: texts to vectors, by a model of transformers.

The mean of the last layer over a text's tokens, scaled to length 1, as sentence-transformers does
for models such as all-MiniLM-L6-v2. The prompt ids of a request are those of its texts one after
the other; each begins with the token that the model puts in front of a text, so they need no
lengths beside them, and a request that broke off is simply computed again.
"""

from __future__ import annotations

import asyncio
import base64
import os
import time
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.contracts import EmbeddingInput, Finish, Input, ModelCard, Sampling
from actors.engines import minilm, weights
from actors.engines.engine import Capabilities, EngineOptions, Snapshot
from actors.engines.folder import unloadable
from actors.engines.generation import Delta, Generation
from actors.engines.plain_text import PlainText
from actors.engines.tokenizer import control_tokens, encode
from actors.engines.weights import Progress, silent
from actors.errors import ContextExceeded, ModelUnusable
from supervision.errors import BadRequest, Draining, Overloaded
from supervision.telemetry import bounds

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MOST_TEXTS = 256
AT_ONCE = 16  # texts of one pass, so that a request that was dropped soon stops


def prepare(card: ModelCard, cache_dir: Path, progress: Progress = silent) -> Path:
    """See `factory.prepare`."""
    weights.require_torch(card)
    return weights.local(card, minilm.SOURCE, weights.whole) or minilm.find()


def create(card: ModelCard, options: EngineOptions) -> EmbeddingEngine:
    """See `factory.create`."""
    return EmbeddingEngine(card, options)


class EmbeddingEngine:
    """See the module. One thread computes, a few texts at a time; requests take turns."""

    def __init__(self, card: ModelCard, options: EngineOptions) -> None:
        self.slots = options.slots
        self.capabilities = Capabilities(
            resume="exact", tag="", context=card.context, chat=False, embeds=True
        )
        self._card = card
        self._options = options
        self._most = options.slots + options.queue
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"engine {card.ref}")
        self._net: Any = None
        self._tokenizer: Any = None
        self._start = -1
        self._plain: PlainText | None = None
        self._vocabulary = 0
        self._open = 0
        self._steps = 0
        self._prompt_tokens = 0
        self._closed = False
        self.durations: list[float] = []
        self._refused = bounds.refused.labels("engine_queue")

    async def open(self) -> None:
        """See `Engine.open`."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._load)

    def _load(self) -> None:
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        folder = prepare(self._card, self._options.cache_dir)
        import torch
        import transformers

        transformers.utils.logging.disable_progress_bar()
        transformers.utils.logging.set_verbosity_error()
        torch.set_num_threads(self._options.threads)
        self._net, self._tokenizer = self._read(folder)
        config = self._net.config
        start = self._tokenizer.cls_token_id
        if start is None or getattr(config, "is_decoder", False):
            raise ModelUnusable(
                f"{folder} is no encoder whose texts begin with a token of their own (CLS); "
                "the engine embedding takes models such as all-MiniLM-L6-v2"
            )
        self._start, self._vocabulary = start, config.vocab_size
        if not self._card.special_tokens_in_text:
            own = self._tokenizer
            self._plain = PlainText(control_tokens(own), partial(encode, own))
        self.capabilities = Capabilities(
            resume="exact",
            tag=f"embedding/{config.hidden_size}/torch-{torch.__version__}",
            context=min(self._card.context, config.max_position_embeddings),
            chat=False,
            embeds=True,
        )

    def _read(self, folder: Path) -> tuple[Any, Any]:
        import torch
        import transformers

        from actors.engines.device import device

        try:
            net = transformers.AutoModel.from_pretrained(
                folder, dtype=torch.float32, local_files_only=True, use_safetensors=True
            )
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
            tokenizer.backend_tokenizer.no_truncation()
            tokenizer.backend_tokenizer.no_padding()
        except Exception as error:  # whatever its files can provoke in the libraries
            raise unloadable(folder, error) from error
        return net.eval().to(device()), tokenizer

    async def prompt(self, input: Input) -> tuple[int, ...]:
        """See `Engine.prompt`."""
        if not isinstance(input, EmbeddingInput):
            raise BadRequest(
                f"model {self._card.ref} makes embeddings and writes no answers; send it to "
                "/v1/embeddings, or take another model",
                param="model",
            )
        if not 0 < len(input.texts) <= MOST_TEXTS:
            raise BadRequest(
                f"input holds {len(input.texts)} texts; send 1 to {MOST_TEXTS}", param="input"
            )
        limit = self.capabilities.context
        for at, text in enumerate(input.texts):
            if len(text) > 32 * limit:
                raise self._too_long(at, limit)
        ids: list[int] = []
        for at, one in enumerate(self._tokenizer.backend_tokenizer.encode_batch(input.texts)):
            if len(one.ids) > limit:
                raise self._too_long(at, limit)
            made = tuple(one.ids)
            if self._plain is not None:
                made = self._plain.checked(input.texts[at], made)
                if len(made) > limit:
                    raise self._too_long(at, limit)
            # the start's own name in a text is no start
            ids += [made[0], *(t for t in made[1:] if t != self._start)]
        return tuple(ids)

    @staticmethod
    def _too_long(at: int, limit: int) -> ContextExceeded:
        return ContextExceeded(
            f"input[{at}] is longer than the model's {limit} tokens; shorten it", param="input"
        )

    def check(self, prompt_tokens: int, sampling: Sampling) -> None:
        """See `Engine.check`. All that matters was seen by `prompt`."""

    async def run(self, generation: Generation) -> AsyncGenerator[Delta, None]:
        """See `Engine.run`. One delta, with all vectors and no token."""
        if self._closed or self._net is None:
            raise Draining("the engine is not open; try another worker")
        if self._open >= self._most:
            self._refused.inc()
            raise Overloaded(
                f"{self._most} requests run or wait in the engine; try again shortly",
                retry_after_s=1.0,
            )
        texts = self._texts(generation.prompt_ids)
        loop = asyncio.get_running_loop()
        vectors = b""
        self._open += 1
        try:
            for at in range(0, len(texts), AT_ONCE):
                some = texts[at : at + AT_ONCE]
                vectors += await loop.run_in_executor(self._thread, self._embed, some)
        except RuntimeError as error:
            if self._closed:
                raise Draining("the engine is closing; try another worker") from error
            raise
        finally:
            self._open -= 1
        yield Delta((), base64.b64encode(vectors).decode(), Finish.STOP)

    def _texts(self, ids: Sequence[int]) -> list[Sequence[int]]:
        starts = [at for at, token in enumerate(ids) if token == self._start]
        if not starts or starts[0] or not all(0 <= t < self._vocabulary for t in ids):
            raise BadRequest("the prompt ids are not those of texts to embed", param="prompt_ids")
        return [ids[a:b] for a, b in zip(starts, [*starts[1:], len(ids)], strict=True)]

    def _embed(self, texts: Sequence[Sequence[int]]) -> bytes:
        import torch

        began = time.perf_counter()
        longest = max(map(len, texts))
        ids = torch.zeros(len(texts), longest, dtype=torch.long)
        mask = torch.zeros(len(texts), longest, dtype=torch.long)
        for row, text in enumerate(texts):
            ids[row, : len(text)] = torch.tensor(text)
            mask[row, : len(text)] = 1
        where = self._net.device
        ids, mask = ids.to(where), mask.to(where)
        with torch.inference_mode():
            hidden = self._net(input_ids=ids, attention_mask=mask).last_hidden_state
            weights = mask[:, :, None].to(hidden.dtype)
            mean = (hidden * weights).sum(1) / weights.sum(1)
            vectors: NDArray[np.float32] = torch.nn.functional.normalize(mean, dim=1).cpu().numpy()
        self._steps += 1
        self._prompt_tokens += sum(map(len, texts))
        if len(self.durations) < 1024:
            self.durations.append(time.perf_counter() - began)
        return vectors.astype("<f4", copy=False).tobytes()

    def snapshot(self) -> Snapshot:
        """See `Engine.snapshot`."""
        return Snapshot(
            running=min(1, self._open),
            queued=max(0, self._open - 1),
            prompt_tokens=self._prompt_tokens,
            steps=self._steps,
        )

    async def close(self) -> None:
        """See `Engine.close`."""
        self._closed = True
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._net = None
