"""Headers of safetensors files: read as the library reads them, or refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
import safetensors

from actors.engines import safetensors_header

F32 = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}
NEXT = {"dtype": "BF16", "shape": [3], "data_offsets": [16, 22]}
EMPTY = {"dtype": "F16", "shape": [0, 4], "data_offsets": [16, 16]}


def test_what_is_whole_is_read() -> None:
    said = {"__metadata__": {"format": "pt"}, "b": NEXT, "a": F32, "none": EMPTY}
    read = safetensors_header.read(json.dumps(said).encode(), 22)
    assert read["a"].shape == (2, 2) and read["b"].data_offsets == (16, 22)
    assert set(read) == {"a", "b", "none"}


@pytest.mark.parametrize(
    "said",
    [
        {"a": F32, "b": F32},  # a thousand of them would be a thousand times the file
        {"a": F32, "b": {**NEXT, "data_offsets": [15, 21]}},
        {"a": F32, "b": {**NEXT, "data_offsets": [17, 23]}},
        {"a": {**F32, "data_offsets": [16, 0]}},
        {"a": {**F32, "data_offsets": [-16, 16]}},
        {"a": {**F32, "shape": [2, 3]}},
        {"a": {**F32, "shape": [1 << 70, 1]}},
        {"a": {**F32, "shape": [-2, -2]}},
        {"a": {**F32, "dtype": ["F32"]}},
        {"a": {**F32, "data_offsets": ["0", "16"]}},
        {"a": [0, 16]},
        {"a": {"data_offsets": [0, 16]}},
        {},
        [],
    ],
)
def test_what_is_not_is_refused_as_the_library_does(said: Any) -> None:
    header = json.dumps(said).encode()
    with pytest.raises(ValueError):
        safetensors_header.read(header, 16)
    with pytest.raises(safetensors.SafetensorError):
        safetensors.deserialize(len(header).to_bytes(8, "little") + header + bytes(16))


@pytest.mark.parametrize(
    "header", [b"", b"\xff" * 9, b"[" * 5000, b'{"a":' * 5000, b'{"a":"\\ud800"}', b"{}\0"]
)
def test_what_is_no_json_is_refused(header: bytes) -> None:
    with pytest.raises(ValueError, match="its header is damaged"):
        safetensors_header.read(header, 16)
