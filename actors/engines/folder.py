"""The check that a Hugging Face model folder is whole, made before torch is imported, so that a
missing or cut-off file is one clear sentence and not a traceback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from actors.errors import ModelUnusable

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_MOST_HEADER = 100 * 1024 * 1024  # safetensors' own bound


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
    """The JSON object in a file of the folder.

    Raises:
        ModelUnusable: there is none.
    """
    path = folder / name
    if not path.is_file():
        raise ModelUnusable(f"the model folder {folder} has no {name}; fetch the model again")
    try:
        parsed = json.loads(path.read_bytes())
    except (ValueError, OSError) as error:
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


def tensors(folder: Path, name: str) -> dict[str, dict[str, Any]]:
    """What a safetensors file of the folder says that it holds, `dtype`, `shape` and
    `data_offsets` of each tensor, if it is whole: 8 bytes of header size, JSON, then the data.

    Raises:
        ModelUnusable: it isn't there, or isn't whole.
    """
    path = folder / name
    if not path.is_file():
        raise ModelUnusable(f"the model folder {folder} has no {name}; fetch the model again")
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            header_size = int.from_bytes(file.read(8), "little")
            if not 2 <= header_size <= min(_MOST_HEADER, size - 8):
                raise ValueError("its header is cut off")
            header: dict[str, Any] = json.loads(file.read(header_size))
        header.pop("__metadata__", None)
        ends = [entry["data_offsets"][1] for entry in header.values()]
        if not ends or max(ends) != size - 8 - header_size:
            raise ValueError(
                f"it should have {8 + header_size + max(ends, default=0)} bytes and has {size}"
            )
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, OSError) as error:
        raise ModelUnusable(f"{path} is not whole ({error}); fetch the model again") from None
    return header
