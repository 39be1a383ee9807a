"""A PEFT adapter as the GGUF file that llama.cpp takes.

llama.cpp computes scaling · B·(A·x) beside every product with a base that may be quantized, with
one alpha for the whole file; each scaling is therefore put into its B here, and alpha is 0, which
stands for a scaling of 1 (llama.cpp's `llama_adapter_lora_weight::get_scale`). Layers are called
as `gguf.get_tensor_name_map` calls them.

Pure.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from actors.engines.lora import Adapter, Factor
from actors.errors import ModelUnusable

# Architectures whose layers have these names. True: ggml wants the two halves of a rotary pair side
# by side, where Hugging Face has them half a head apart, so rows of B are exchanged likewise.
_SIDE_BY_SIDE = {"llama": True, "qwen2": False, "qwen3": False}
_LAYERS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")
_VERSION, _ALIGNMENT, _F32, _FLOAT, _STRING = 3, 32, 0, 6, 8  # ggml's docs/gguf.md


def written(
    adapter: Adapter, architecture: str, *, heads: int, key_heads: int
) -> Iterator[bytes | memoryview]:
    """The GGUF file of `adapter`, part by part, for a base of this architecture, with so many heads
    for queries and for keys.

    Raises:
        ModelUnusable: it changes what can't be changed here.
    """
    side_by_side = _SIDE_BY_SIDE.get(architecture)
    if side_by_side is None:
        raise ModelUnusable(
            f"{adapter.folder} can't be used on a GGUF model of the architecture {architecture} "
            f"(only {', '.join(_SIDE_BY_SIDE)}); convert it with llama.cpp's "
            "convert_lora_to_gguf.py"
        )
    names = [_name(adapter, factor) for factor in adapter.factors]
    yield _head(architecture, names, adapter.factors)
    for name, factor in zip(names, adapter.factors, strict=True):
        b = factor.b * np.float32(factor.scaling)
        if side_by_side and name.endswith(("attn_q.weight", "attn_k.weight")):
            b = _exchanged(adapter, factor, b, heads if "attn_q" in name else key_heads)
        for values in (factor.a, b):
            yield values.astype("<f4", copy=False).data
            yield bytes(_padded(values.nbytes) - values.nbytes)


def _name(adapter: Adapter, factor: Factor) -> str:
    if factor.module == "lm_head":
        return "output.weight"
    found = _LAYER.fullmatch(factor.module)
    if found is None or found[2] not in _LAYERS:
        raise ModelUnusable(
            f"{adapter.folder} changes {factor.module}, which the engine gguf can't; merge the "
            "adapter into its base with peft, and convert that"
        )
    return f"blk.{found[1]}.{_LAYERS[found[2]]}.weight"


def _exchanged(
    adapter: Adapter, factor: Factor, b: NDArray[np.float32], heads: int
) -> NDArray[np.float32]:
    if heads < 1 or b.shape[0] % (2 * heads):
        raise ModelUnusable(
            f"{adapter.folder} changes {factor.module} by {b.shape[0]} rows, and the base has "
            f"{heads} heads there; was the adapter made for another base?"
        )
    return np.ascontiguousarray(b.reshape(heads, 2, -1, b.shape[1]).swapaxes(1, 2)).reshape(b.shape)


def _head(architecture: str, names: Sequence[str], factors: Sequence[Factor]) -> bytes:
    head: dict[str, str | float] = {
        "general.type": "adapter",
        "general.architecture": architecture,
        "adapter.type": "lora",
        "adapter.lora.alpha": 0.0,
    }
    parts = [b"GGUF", struct.pack("<IQQ", _VERSION, 2 * len(names), len(head))]
    for key, value in head.items():
        parts.append(_string(key))
        if isinstance(value, str):
            parts += [struct.pack("<I", _STRING), _string(value)]
        else:
            parts.append(struct.pack("<If", _FLOAT, value))
    offset = 0
    for name, factor in zip(names, factors, strict=True):
        for side, values in (("a", factor.a), ("b", factor.b)):
            rows, columns = values.shape
            parts.append(_string(f"{name}.lora_{side}"))
            parts.append(struct.pack("<IQQIQ", 2, columns, rows, _F32, offset))
            offset += _padded(values.nbytes)
    size = sum(map(len, parts))
    return b"".join((*parts, bytes(_padded(size) - size)))


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _padded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
