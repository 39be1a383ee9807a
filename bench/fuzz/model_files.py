"""Files of models, whoever has made them: what is looked at in one before it is an artifact, and
what is read of it before a library loads it in the process of an engine.

An input is a file; where it begins with a number below 8, it is what this stands for below, else
weights. It is written to a folder in which the others are as they should be.
"""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from pathlib import Path
from random import Random
from typing import Any, Final

from actors.artifacts import folder as artifacts
from actors.engines import folder, gguf_file, lora
from actors.errors import ArtifactRefused, ModelUnusable
from bench.fuzz.mutation import bytes_changed, grown, json_changed
from bench.fuzz.target import LONGEST, Target

GROWTH: Final = 64  # an empty table of JSON is two bytes, and one of Python's 64
SLACK: Final = 1 << 19  # a file that is read has its buffer, and a pattern its program

_MODEL: Final = ("model.safetensors", "config.json", "tokenizer.json", folder.INDEX)
_ADAPTER: Final = (lora.WEIGHTS, lora.CONFIG)
_ENDINGS: Final = ("weights.safetensors", "a.json", "model.gguf")


def tensors(data: bytes = bytes(16), **more: dict[str, Any]) -> bytes:
    """A safetensors file that holds `more`, else one matrix."""
    said = more or {"w": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}
    header = json.dumps({"__metadata__": {"format": "pt"}, **said}).encode()
    return len(header).to_bytes(8, "little") + header + data


def _factors() -> bytes:
    names = {"A": [2, 4], "B": [4, 2]}
    told: dict[str, Any] = {
        f"base_model.model.model.layers.0.self_attn.q_proj.lora_{side}.weight": {
            "dtype": "F32",
            "shape": shape,
            "data_offsets": [32 * at, 32 * at + 32],
        }
        for at, (side, shape) in enumerate(names.items())
    }
    return tensors(bytes(64), **told)


_CONFIG: Final = {
    "peft_type": "LORA",
    "r": 2,
    "lora_alpha": 4,
    "target_modules": ["q_proj"],
    "rank_pattern": {r".*\.layers\.0\..*": 2},
    "alpha_pattern": {"v_proj|q_proj": 8.0},
    "use_rslora": True,
    "bias": "none",
}
_GOOD: Final = {
    "model.safetensors": tensors(),
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b"{}",
    lora.WEIGHTS: _factors(),
    lora.CONFIG: json.dumps(_CONFIG).encode(),
}


class _Folder:
    """One whose files are good, but for what is put into it."""

    def __init__(self, *names: str) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="fz"))
        atexit.register(shutil.rmtree, self.path, ignore_errors=True)
        self._names = names
        self._other: tuple[str, ...] = ()  # what is there and isn't as it should be
        for name in names:
            self._put(name, _GOOD.get(name))

    def _put(self, name: str, content: bytes | None) -> None:
        if content is None:
            (self.path / name).unlink(missing_ok=True)
        else:
            (self.path / name).write_bytes(content)

    def holding(self, data: bytes) -> str:
        """Which file `data` is."""
        for name in self._other:
            self._put(name, _GOOD.get(name))
        at, content = 0, data
        if data and data[0] < 8:
            at, content = data[0] % len(self._names), data[1:]
        self._put(self._names[at], content)
        self._other = (self._names[at],)
        if self._names[at] == folder.INDEX:
            self._put("shard.safetensors", tensors())
            self._put("model.safetensors", None)
            self._other += ("model.safetensors",)
        return self._names[at]


_folders: dict[str, _Folder] = {}


def _folder(kind: str, *names: str) -> _Folder:
    if kind not in _folders:
        _folders[kind] = _Folder(*names)
    return _folders[kind]


def read_file(data: bytes) -> object:
    """As a file of an artifact that is packed, or was unpacked, and of an engine."""
    place = _folder("files", *_ENDINGS)
    name = place.holding(data)
    try:
        artifacts.inspect(place.path, [name])
    finally:
        found = gguf_file.find(place.path / name)
    return found


def read_folder(data: bytes) -> object:
    place = _folder("model", *_MODEL)
    place.holding(data)
    return folder.check(place.path)


def read_adapter(data: bytes) -> object:
    place = _folder("adapter", *_ADAPTER)
    place.holding(data)
    adapter = lora.read(place.path)
    return adapter, adapter.targets("model.layers.0.self_attn.q_proj")


def _changed(data: bytes, random: Random) -> bytes:
    """Its JSON, with a length before it that is right; else its bytes."""
    if data[:1] and data[0] < 8 and data[1:2] == b"{":
        return data[:1] + json_changed(data[1:], random)
    size = int.from_bytes(data[:8], "little")
    if size <= len(data) - 8 and random.random() < 0.8:
        header = json_changed(data[8 : 8 + size], random)
        return len(header).to_bytes(8, "little") + header + data[8 + size :]
    return bytes_changed(data, random)


def _blown(data: bytes, random: Random) -> bytes:
    """Large in what is said, or in the data."""
    if data[:1] and data[0] < 8 and data[1:2] == b"{":
        return data[:1] + grown(json_changed, LONGEST)(data[1:], random)
    return grown(_changed, LONGEST)(data, random)


FILES: Final = Target(
    name="model files",
    read=read_file,
    seeds=(
        tensors(),
        b"\1" + json.dumps({"auto_map": {}, "a": [1, 2.5]}).encode(),
        b"\2GGUF" + (3).to_bytes(4, "little") + bytes(16),
    ),
    growth=GROWTH,
    slack=SLACK,
    ours=(ArtifactRefused, ModelUnusable),
    change=_blown,
    longest=LONGEST,
)
FOLDERS: Final = Target(
    name="model folders",
    read=read_folder,
    seeds=(
        tensors(),
        b"\1" + _GOOD["config.json"],
        b"\2" + json.dumps({"model": {"vocab": {"a": 1}, "merges": []}}).encode(),
        b"\3" + json.dumps({"weight_map": {"w": "shard.safetensors"}}).encode(),
    ),
    growth=GROWTH,
    slack=SLACK,
    ours=(ModelUnusable,),
    change=_blown,
    longest=LONGEST,
)
ADAPTERS: Final = Target(
    name="adapters",
    read=read_adapter,
    seeds=(_factors(), b"\1" + _GOOD[lora.CONFIG]),
    growth=GROWTH,
    slack=SLACK,
    ours=(ModelUnusable,),
    classes=(lora.Adapter, lora.Factor),
    change=_blown,
    longest=LONGEST,
)
