"""The header of a safetensors file: what it holds, and where.

Read as strictly as the library does (github.com/huggingface/safetensors, "Format"): tensors lie
side by side in the data, with no hole and none over another, and each takes as many bytes as its
shape and its numbers do. So whatever is made of all tensors is bounded by the size of the file,
which a header that names one part of it a thousand times would undo.

What a header of `n` bytes becomes takes less than 64·n bytes, and is read in a time that grows as
`n` does.

Pure.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from supervision.unreadable import UNREADABLE

MOST: Final = 100 * 1024 * 1024  # bytes, safetensors' own bound
METADATA: Final = "__metadata__"
_MOST_SIZE: Final = (1 << 63) - 1
_BITS: Final = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16, "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64, "C64": 64,
}  # fmt: skip

_Size = Annotated[int, Meta(ge=0, le=_MOST_SIZE)]


class Tensor(msgspec.Struct, frozen=True):
    """One tensor: its bytes are those from the first of `data_offsets` to the last, of the data."""

    dtype: Annotated[str, Meta(max_length=32)]
    shape: Annotated[tuple[_Size, ...], Meta(max_length=64)]
    data_offsets: tuple[_Size, _Size]


_names = msgspec.json.Decoder(dict[str, msgspec.Raw])
_tensor = msgspec.json.Decoder(Tensor)
_metadata = msgspec.json.Decoder(dict[str, Any])


def read(header: bytes, data_size: int) -> dict[str, Tensor]:
    """The tensors of a file with so many bytes of data, by name.

    Raises:
        ValueError: it is no such header; the sentence says why.
    """
    try:
        entries = _names.decode(header)
        told = entries.pop(METADATA, None)
        if told is not None:
            _metadata.decode(told)
        tensors = {name: _tensor.decode(entry) for name, entry in entries.items()}
    except UNREADABLE as error:
        raise ValueError(f"its header is damaged: {error}") from None
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1].data_offsets):
        begin, stop = tensor.data_offsets
        if begin != end or stop < begin:
            raise ValueError(f"{name[:80]} lies over another tensor, or beside a hole")
        bits = _BITS.get(tensor.dtype)
        if bits is not None and math.prod(tensor.shape) * bits != (stop - begin) * 8:
            raise ValueError(f"{name[:80]} has {stop - begin} bytes, which its shape doesn't")
        end = stop
    if not tensors or end != data_size:
        raise ValueError(
            f"it should have {8 + len(header) + end} bytes and has {8 + len(header) + data_size}"
        )
    return tensors
