"""A LoRA adapter over a GGUF model in llama.cpp: a GGUF file, or a PEFT folder written as one."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from actors.engines import gguf_adapter, gguf_file, llama, lora
from actors.errors import ModelUnusable


def check(path: Path) -> Path:
    """The checked adapter: a GGUF file, or the folder of a PEFT adapter.

    Raises:
        ModelUnusable: the first thing that is wrong, and what to do.
    """
    if path.is_dir() and not any(path.glob("*.gguf")):
        lora.check(path)
        return path
    return gguf_file.find(path)


def attach(lib: Any, model: int, context: int, path: Path) -> str:
    """Let all that is computed in `context` be changed by the adapter at the checked `path`, and
    return its digest. It goes when `model` goes.

    Raises:
        ModelUnusable: it was made for another base, or can't be used here.
    """
    with _named(lib, model, path) as (name, digest):
        adapter = lib.llama_adapter_lora_init(model, name.encode())
    if not adapter:
        reason = llama.last_error("it gave no reason; fetch the adapter again")
        raise ModelUnusable(f"{path} cannot be used as an adapter by llama.cpp: {reason}")
    if lib.llama_adapter_get_alora_n_invocation_tokens(adapter):
        raise ModelUnusable(
            f"{path} begins in the middle of a text (aLoRA), which is not supported; use a LoRA"
        )
    adapters, scales = (ctypes.c_void_p * 1)(adapter), (ctypes.c_float * 1)(1.0)
    if lib.llama_set_adapters_lora(context, adapters, 1, scales):
        raise ModelUnusable(
            f"llama.cpp refuses the adapter {path}: {llama.last_error('it gave no reason')}"
        )
    return digest


@contextmanager
def _named(lib: Any, model: int, path: Path) -> Iterator[tuple[str, str]]:
    """A file name that llama.cpp can open for now, and the adapter's digest. A PEFT folder becomes
    a file in memory: written in milliseconds, and nothing is left behind by a kill."""
    if not path.is_dir():
        yield str(path), lora.digest_of(path)
        return
    adapter = lora.read(path)
    parts = gguf_adapter.written(
        adapter,
        llama.meta(lib, model, "general.architecture"),
        heads=lib.llama_model_n_head(model),
        key_heads=lib.llama_model_n_head_kv(model),
    )
    descriptor = os.memfd_create("tether-adapter", os.MFD_CLOEXEC)
    with os.fdopen(descriptor, "wb") as memory:
        for part in parts:
            memory.write(part)
        memory.flush()
        yield f"/proc/self/fd/{descriptor}", adapter.digest
