"""A GGUF model in llama.cpp, computed for many answers at once."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from actors.engines import llama, llama_adapter
from actors.engines.llama_slots import LlamaSlots
from actors.engines.plain_text import Added, ControlTokens, steering
from actors.engines.span import Span
from actors.errors import ModelUnusable
from supervision.telemetry import logs

log = logs.get(__name__)

CPU_FEATURES = ("AMX_INT8", "AVX512_BF16", "AVX512", "AVX2", "AVX", "SVE", "NEON", "SSE3")


# llama_token_attr of llama.h
UNKNOWN, CONTROL, USER_DEFINED, LSTRIP, RSTRIP = 1, 1 << 3, 1 << 4, 1 << 7, 1 << 8


class LlamaModel:
    """Weights, vocabulary and context. Belongs to one thread, but for `encode`."""

    def __init__(
        self,
        path: Path,
        *,
        slots: int,
        context: int,
        threads: int,
        batch_tokens: int,
        adapter: Path | None = None,
    ) -> None:
        """Load `path`, with room for `slots` answers of `context` tokens at most and passes of
        `batch_tokens` at most, all of them changed by `adapter` (see `llama_adapter`).

        Raises:
            ModelUnusable: not a model that llama.cpp can decode, or no memory for it.
        """
        self._lib = lib = llama.library()
        self._model = self._context = 0
        self._batch: llama.LlamaBatch | None = None
        self.adapter = ""  # its digest
        model = lib.llama_model_load_from_file(str(path).encode(), lib.llama_model_default_params())
        if not model:
            raise ModelUnusable(
                f"{path.name} cannot be loaded by llama.cpp: "
                f"{llama.last_error('it gave no reason; fetch the file again')}"
            )
        self._model = model
        try:
            self._open(path, slots, context, threads, batch_tokens)
            if adapter is not None:
                self.adapter = llama_adapter.attach(lib, model, self._context, adapter)
            self._warm(adapter or path)
        except BaseException:
            self.close()
            raise

    def _open(self, path: Path, slots: int, context: int, threads: int, batch_tokens: int) -> None:
        lib, model = self._lib, self._model
        if lib.llama_model_has_encoder(model) or not lib.llama_model_has_decoder(model):
            raise ModelUnusable(
                f"{path.name} has an encoder; the engine gguf takes decoder models only"
            )
        self._vocab = lib.llama_model_get_vocab(model)
        self.vocabulary: int = lib.llama_vocab_n_tokens(self._vocab)
        if not self.vocabulary:
            raise ModelUnusable(f"{path.name} has no vocabulary; take another file")
        self.context = min(context, lib.llama_model_n_ctx_train(model))
        # no pass has more, and llama.cpp makes no larger batch than its context
        batch_tokens = min(batch_tokens, slots * self.context)
        params = lib.llama_context_default_params()
        params.n_ctx = slots * self.context
        params.n_seq_max = slots
        params.n_batch = params.n_ubatch = batch_tokens
        params.n_threads = params.n_threads_batch = threads
        self._context = lib.llama_init_from_model(model, params) or 0
        if not self._context:
            raise ModelUnusable(
                f"llama.cpp can't make room for {slots} answers of {self.context} tokens of "
                f"{path.name} ({llama.last_error('it gave no reason')}); lower slots or context"
            )
        if (
            lib.llama_n_seq_max(self._context) != slots
            or lib.llama_n_ctx_seq(self._context) < self.context
            or lib.llama_n_batch(self._context) < batch_tokens
            or lib.llama_n_threads(self._context) != threads
        ):
            raise ModelUnusable(
                f"llama.cpp made another context of {path.name} than was asked for; "
                "lower slots or context"
            )
        self.cache = LlamaSlots(lib, self._context, slots)
        self.ends = frozenset(
            token for token in range(self.vocabulary) if lib.llama_vocab_is_eog(self._vocab, token)
        )
        self._batch = batch = lib.llama_batch_init(batch_tokens, 0, 1)
        array = np.ctypeslib.as_array
        shape = (batch_tokens,)
        self._token, self._pos = array(batch.token, shape), array(batch.pos, shape)
        self._want = array(batch.logits, shape)
        array(batch.n_seq_id, shape)[:] = 1
        self._seq = [array(batch.seq_id[at], (1,)) for at in range(batch_tokens)]

    def _warm(self, path: Path) -> None:
        """One token, which also tells what a token holds in memory."""
        logits = self.forward([next(iter(self.ends), 0)], (), (Span(0, 0, 1),))
        if not np.isfinite(logits).all():
            raise ModelUnusable(f"{path.name} computes numbers that are none; fetch it again")
        self.cache.token_bytes = self._lib.llama_state_seq_get_size(self._context, 0)
        self.cache.lends = self._lends()
        if not self.cache.lends:
            log.warning("engine.no_reuse", model=path.name, why="its answers can't be copied")
        self.cache.release()

    def _lends(self) -> bool:
        """Does an answer that begins with a copy of another go on as that one? Not where a model's
        memory is no list of tokens, such as a recurrent one's."""
        other = min(1, self._lib.llama_n_seq_max(self._context) - 1)
        ids = [token % self.vocabulary for token in (3, 10, 17)][: self.context]
        last = len(ids) - 1
        try:
            for at, token in enumerate(ids):
                whole = self.forward([token], (), (Span(0, at, 1),))
            self.cache.copy(0, other, last)
            copied = self.forward(ids[last:], (), (Span(other, last, 1),))
        except RuntimeError:
            return False
        return float(np.abs(whole - copied).max()) <= 0.05 * float(whole.std())

    def forward(
        self, ids: Sequence[int], decode: Sequence[Span], prefill: Sequence[Span]
    ) -> NDArray[np.float32]:
        """See `Forward.forward`.

        Raises:
            RuntimeError: llama.cpp could not compute this.
        """
        spans = (*decode, *prefill)
        count, batch = len(ids), self._batch
        assert batch is not None
        self._token[:count] = ids
        self._want[:count] = 0
        at, last = 0, []
        for span in spans:
            self.cache.begin(span)
            end = at + span.count
            self._pos[at:end] = range(span.start, span.start + span.count)
            for token in range(at, end):
                self._seq[token][0] = span.slot
            self._want[end - 1] = 1
            last.append(end - 1)
            at = end
        batch.n_tokens = count
        code = self._lib.llama_decode(self._context, batch)
        if code:
            raise RuntimeError(f"llama_decode gave {code}: {llama.last_error('no reason')}")
        shape = (self.vocabulary,)
        get = self._lib.llama_get_logits_ith
        # copied: the next pass writes over them
        return np.stack([np.ctypeslib.as_array(get(self._context, n), shape) for n in last])

    def encode(self, text: str, *, special: bool, plain: bool = False) -> tuple[int, ...]:
        """See `plain_text.Encode`."""
        raw = text.encode()
        room = len(raw) + 8  # a token has a byte at least
        ids = (ctypes.c_int32 * room)()
        count = self._lib.llama_tokenize(self._vocab, raw, len(raw), ids, room, special, not plain)
        if count < 0:
            raise RuntimeError(f"llama_tokenize gave {count} for {len(raw)} bytes")
        return tuple(ids[:count])

    def table(self) -> tuple[bytes, ...]:
        """The bytes of every token; those that steer the model have none."""
        piece, table = self._lib.llama_token_to_piece, []
        buffer = ctypes.create_string_buffer(512)
        for token in range(self.vocabulary):
            size = piece(self._vocab, token, buffer, len(buffer), 0, False)
            table.append(ctypes.string_at(buffer, size) if size > 0 else b"")
        return tuple(table)

    def chat_template(self) -> str:
        """The Jinja template of the file, or nothing."""
        template: bytes | None = self._lib.llama_model_chat_template(self._model, None)
        return (template or b"").decode(errors="replace")

    def control(self, template: str) -> ControlTokens:
        """What must not come from a client's text; `template` is that of `chat_template`."""
        words = frozenset[str]()
        if template:
            from actors.engines.chat_template import looked_for

            words = looked_for(template)
        attributes, text = self._lib.llama_vocab_get_attr, self._lib.llama_vocab_get_text
        added, unknown = [], None
        for token in range(self.vocabulary):
            has = attributes(self._vocab, token)
            if has & (UNKNOWN | CONTROL | USER_DEFINED):
                name = text(self._vocab, token).decode(errors="replace")
                unknown = name if has & UNKNOWN else unknown
                added.append(
                    Added(
                        id=token,
                        name=name,
                        special=not has & USER_DEFINED,
                        before=bool(has & LSTRIP),
                        after=bool(has & RSTRIP),
                    )
                )
        return ControlTokens(steering(added, template, words), unknown=unknown, template=template)

    def special(self) -> dict[str, str]:
        """What templates call the ends of a text."""
        names = {"bos_token": self._lib.llama_vocab_bos, "eos_token": self._lib.llama_vocab_eos}
        found = {name: get(self._vocab) for name, get in names.items()}
        text = self._lib.llama_vocab_get_text
        return {
            name: text(self._vocab, token).decode(errors="replace") if token >= 0 else ""
            for name, token in found.items()
        }

    def describe(self) -> tuple[str, str]:
        """Kind and precision of the model, and the widest vectors that the library uses here."""
        buffer = ctypes.create_string_buffer(256)
        self._lib.llama_model_desc(self._model, buffer, len(buffer))
        has = {part.strip() for part in self._lib.llama_print_system_info().decode().split("|")}
        width = next((name for name in CPU_FEATURES if any(f"{name} = 1" in p for p in has)), "cpu")
        return buffer.value.decode(errors="replace"), width

    def close(self) -> None:
        """Give all memory back. Safe twice."""
        batch, self._batch = self._batch, None
        if batch is not None:
            self._lib.llama_batch_free(batch)
        context, self._context = self._context, 0
        if context:
            self._lib.llama_free(context)
        model, self._model = self._model, 0
        if model:
            self._lib.llama_model_free(model)
