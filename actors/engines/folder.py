"""The check that a Hugging Face model folder is whole, made before torch is imported, so that a
missing or cut-off file is one clear sentence and not a traceback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from actors.engines import safetensors_header
from actors.engines.safetensors_header import Tensor
from actors.errors import ModelUnusable

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_MOST_JSON = 64 << 20  # bytes, as in an artifact


def check(folder: Path) -> dict[str, Any]:
    """The folder's config.json, if all files that the transformers engine needs are whole.

    Raises:
        ModelUnusable: the first thing that is wrong, and what to do.
    """
    if not folder.is_dir():
        raise ModelUnusable(f"the model folder {folder} does not exist; check `source`")
    config = parsed(folder, "config.json")
    if not isinstance(config.get("model_type"), str):
        raise ModelUnusable(f"{folder / 'config.json'} has no model_type; fetch the model again")
    parsed(folder, "tokenizer.json")
    for shard in _shards(folder):
        tensors(folder, shard)
    return config


def unloadable(folder: Path, error: Exception) -> ModelUnusable:
    """What to raise when a library refuses a folder that looks whole: its reason, in a line."""
    reason = str(error.__cause__ or error).strip().splitlines()
    return ModelUnusable(
        f"{folder} cannot be loaded as a language model: {reason[0] if reason else repr(error)}"
    )


def parsed(folder: Path, name: str) -> dict[str, Any]:
    """The JSON object in a file of the folder, which takes at most 64 times its bytes.

    Raises:
        ModelUnusable: there is none.
    """
    path = _plain(folder, name)
    try:
        if (size := path.stat().st_size) > _MOST_JSON:
            raise ValueError(f"its {size} bytes are more than {_MOST_JSON}")
        parsed = json.loads(path.read_bytes())
    except (ValueError, OSError, RecursionError) as error:
        raise ModelUnusable(f"{path} cannot be read ({error}); fetch the model again") from None
    if not isinstance(parsed, dict):
        raise ModelUnusable(f"{path} is not a JSON object; fetch the model again")
    return parsed


def _shards(folder: Path) -> list[str]:
    if (folder / SINGLE).is_file():
        return [SINGLE]
    if not (folder / INDEX).is_file():
        raise ModelUnusable(
            f"the model folder {folder} has neither {SINGLE} nor {INDEX}; "
            "only safetensors weights are loaded"
        )
    shards = parsed(folder, INDEX).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise ModelUnusable(f"{folder / INDEX} names no weights; fetch the model again")
    names = sorted({str(name) for name in shards.values()})
    if outside := [name for name in names if Path(name).name != name]:
        raise ModelUnusable(f"{folder / INDEX} points out of its folder, at {outside[0]}")
    return names


def tensors(folder: Path, name: str) -> dict[str, Tensor]:
    """What a safetensors file of the folder holds, by name, if it is whole: 8 bytes of header size,
    the header, then the data.

    Raises:
        ModelUnusable: it isn't there, or isn't whole.
    """
    path = _plain(folder, name)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            header_size = int.from_bytes(file.read(8), "little")
            if not 2 <= header_size <= min(safetensors_header.MOST, size - 8):
                raise ValueError("its header is cut off")
            return safetensors_header.read(file.read(header_size), size - 8 - header_size)
    except (ValueError, OSError) as error:
        raise ModelUnusable(f"{path} is not whole ({error}); fetch the model again") from None


def _plain(folder: Path, name: str) -> Path:
    """The file of the folder that has this name, which may have come from another file."""
    path = folder / name
    try:
        if path.is_file():
            return path
    except OSError:  # it is longer than a name can be
        name = f"{name[:80]}…"
    raise ModelUnusable(f"the model folder {folder} has no {name}; fetch the model again")
