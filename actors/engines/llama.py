"""llama.cpp's C interface, out of the library that the package xllamacpp brings.

xllamacpp's own interface is llama.cpp's server: it says no token ids, keeps its own seeds,
and cannot be told to drop an answer that waits. The library beside it exports all of llama.h,
so that is what is called, by ctypes. A structure handed by value must be laid out as that
library was built, so `PACKAGE` is pinned, and what a wrong layout would change is compared
with what the library says of itself before a model is loaded.
"""

from __future__ import annotations

import ctypes
import functools
import threading
from ctypes import (
    POINTER,
    c_bool,
    c_char_p,
    c_float,
    c_int8,
    c_int32,
    c_uint8,
    c_uint32,
    c_uint64,
    c_void_p,
)
from importlib import metadata, util
from pathlib import Path
from typing import Any

from actors.errors import ModelUnusable
from supervision.telemetry import logs

log = logs.get(__name__)

PACKAGE = "xllamacpp"
VERSION = "2026.10.11549"
_WARNING = 3  # of ggml_log_level: 1 debug, 2 info, 3 warning, 4 error
_ERROR = 4


class ModelParams(ctypes.Structure):
    """llama_model_params, taken from the library and handed back as it is. Larger than it is
    there: what is behind its end is not looked at."""

    _fields_ = [("opaque", c_uint8 * 1024)]


# the first fields of llama_context_params, with what this version fills in: the layout is known
# to be right by that
_CONTEXT_DEFAULTS = {
    "n_ctx": 512,
    "n_batch": 2048,
    "n_ubatch": 512,
    "n_seq_max": 1,
    "n_rs_seq": 0,
    "n_outputs_max": 0,
    "n_outputs_max_per_seq": 1,
    "n_threads": 4,
    "n_threads_batch": 4,
}


class ContextParams(ctypes.Structure):
    """llama_context_params: the fields that are set, and the rest as the library gave it."""

    _fields_ = [*((name, c_uint32) for name in _CONTEXT_DEFAULTS), ("opaque", c_uint8 * 988)]


class LlamaBatch(ctypes.Structure):
    """llama_batch: tokens, where each belongs, and whether its logits are wanted."""

    _fields_ = [
        ("n_tokens", c_int32),
        ("token", POINTER(c_int32)),
        ("embd", c_void_p),
        ("pos", POINTER(c_int32)),
        ("n_seq_id", POINTER(c_int32)),
        ("seq_id", POINTER(POINTER(c_int32))),
        ("logits", POINTER(c_int8)),
    ]


_Log = ctypes.CFUNCTYPE(None, c_int32, c_char_p, c_void_p)

_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "llama_backend_init": (None, ()),
    "llama_log_set": (None, (_Log, c_void_p)),
    "llama_model_default_params": (ModelParams, ()),
    "llama_context_default_params": (ContextParams, ()),
    "llama_print_system_info": (c_char_p, ()),
    "llama_model_load_from_file": (c_void_p, (c_char_p, ModelParams)),
    "llama_model_free": (None, (c_void_p,)),
    "llama_model_get_vocab": (c_void_p, (c_void_p,)),
    "llama_model_chat_template": (c_char_p, (c_void_p, c_char_p)),
    "llama_model_desc": (c_int32, (c_void_p, c_char_p, ctypes.c_size_t)),
    "llama_model_meta_val_str": (c_int32, (c_void_p, c_char_p, c_char_p, ctypes.c_size_t)),
    "llama_model_n_head": (c_int32, (c_void_p,)),
    "llama_model_n_head_kv": (c_int32, (c_void_p,)),
    "llama_adapter_lora_init": (c_void_p, (c_void_p, c_char_p)),
    "llama_adapter_get_alora_n_invocation_tokens": (c_uint64, (c_void_p,)),
    "llama_set_adapters_lora": (
        c_int32,
        (c_void_p, POINTER(c_void_p), ctypes.c_size_t, POINTER(c_float)),
    ),
    "llama_model_n_ctx_train": (c_int32, (c_void_p,)),
    "llama_model_has_encoder": (c_bool, (c_void_p,)),
    "llama_model_has_decoder": (c_bool, (c_void_p,)),
    "llama_init_from_model": (c_void_p, (c_void_p, ContextParams)),
    "llama_free": (None, (c_void_p,)),
    "llama_n_ctx": (c_uint32, (c_void_p,)),
    "llama_n_ctx_seq": (c_uint32, (c_void_p,)),
    "llama_n_batch": (c_uint32, (c_void_p,)),
    "llama_n_seq_max": (c_uint32, (c_void_p,)),
    "llama_n_threads": (c_int32, (c_void_p,)),
    "llama_get_memory": (c_void_p, (c_void_p,)),
    "llama_memory_clear": (None, (c_void_p, c_bool)),
    "llama_memory_seq_rm": (c_bool, (c_void_p, c_int32, c_int32, c_int32)),
    "llama_memory_seq_cp": (None, (c_void_p, c_int32, c_int32, c_int32, c_int32)),
    "llama_batch_init": (LlamaBatch, (c_int32, c_int32, c_int32)),
    "llama_batch_free": (None, (LlamaBatch,)),
    "llama_decode": (c_int32, (c_void_p, LlamaBatch)),
    "llama_get_logits_ith": (POINTER(c_float), (c_void_p, c_int32)),
    "llama_state_seq_get_size": (ctypes.c_size_t, (c_void_p, c_int32)),
    "llama_state_seq_get_data": (
        ctypes.c_size_t,
        (c_void_p, c_void_p, ctypes.c_size_t, c_int32),
    ),
    "llama_state_seq_set_data": (
        ctypes.c_size_t,
        (c_void_p, c_void_p, ctypes.c_size_t, c_int32),
    ),
    "llama_vocab_n_tokens": (c_int32, (c_void_p,)),
    "llama_vocab_is_eog": (c_bool, (c_void_p, c_int32)),
    "llama_vocab_bos": (c_int32, (c_void_p,)),
    "llama_vocab_eos": (c_int32, (c_void_p,)),
    "llama_vocab_get_text": (c_char_p, (c_void_p, c_int32)),
    "llama_vocab_get_attr": (c_int32, (c_void_p, c_int32)),
    "llama_token_to_piece": (
        c_int32,
        (c_void_p, c_int32, c_char_p, c_int32, c_int32, c_bool),
    ),
    "llama_tokenize": (
        c_int32,
        (c_void_p, c_char_p, c_int32, POINTER(c_int32), c_int32, c_bool, c_bool),
    ),
}

_opening = threading.Lock()
_said: list[str] = []  # the latest errors of the library, for the sentence that a user sees


def _log(level: int, text: bytes, _: int | None) -> None:
    line = text.decode(errors="replace").strip()
    if level < _WARNING or not line.strip("."):
        return
    if level >= _ERROR:
        _said.append(line)
        del _said[:-8]
    log.debug("llama.cpp", level=level, said=line)


_logged = _Log(_log)  # kept for as long as the library may call it


def last_error(default: str) -> str:
    """The last thing that the library complained of, once."""
    said = _said[0] if _said else default
    _said.clear()
    return said


def meta(lib: Any, model: int, key: str) -> str:
    """What a model's file says under `key`; nothing if it doesn't."""
    buffer = ctypes.create_string_buffer(256)
    found = lib.llama_model_meta_val_str(model, key.encode(), buffer, len(buffer))
    return buffer.value.decode(errors="replace") if found >= 0 else ""


def library() -> Any:
    """The library, with its functions typed; loaded once a process.

    Raises:
        ModelUnusable: it isn't there, or is another than the one this was written for.
    """
    with _opening:
        return _library()


@functools.cache
def _library() -> Any:
    found = util.find_spec(PACKAGE)  # found, not imported: its Python module is not needed
    if found is None or found.origin is None:
        raise ModelUnusable(
            f"the engine gguf needs the package {PACKAGE}; run pip install {PACKAGE}=={VERSION}"
        )
    version = metadata.version(PACKAGE)
    if version != VERSION:
        raise ModelUnusable(
            f"the engine gguf was written for {PACKAGE} {VERSION}, and {version} is installed; "
            f"run pip install {PACKAGE}=={VERSION}"
        )
    files = sorted(Path(found.origin).parent.glob(f"{PACKAGE}*.so"))
    try:
        handle = ctypes.CDLL(str(files[0]))
        for name, (returns, takes) in _FUNCTIONS.items():
            function = getattr(handle, name)
            function.restype, function.argtypes = returns, takes
    except (IndexError, OSError, AttributeError) as error:
        raise ModelUnusable(
            f"the library of {PACKAGE} can't be used here ({error}); install it again"
        ) from None
    handle.llama_log_set(_logged, None)
    handle.llama_backend_init()
    defaults = handle.llama_context_default_params()
    if any(getattr(defaults, name) != value for name, value in _CONTEXT_DEFAULTS.items()):
        raise ModelUnusable(
            f"the library of {PACKAGE} {version} is laid out in another way than was expected; "
            "install it again, from the wheel"
        )
    return handle
