"""A LoRA adapter as PEFT saves it: adapter_config.json and adapter_model.safetensors.

What it says is W + scaling · B·A for some weights W of its base (Hu et al. 2021, "LoRA: Low-Rank
Adaptation of Large Language Models"), with scaling = alpha / r, or alpha / √r with `use_rslora`
(Kalajdzievski 2023). The two patterns and `target_modules` are read as PEFT reads them. Whatever
else a config may ask for changes the sum, so a setting that isn't known here is refused by name.
Needs numpy alone: the engine gguf reads adapters too.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.engines import folder as folders
from actors.engines import name_pattern
from actors.engines.safetensors_header import Tensor
from actors.errors import ModelUnusable

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PICKLE = "adapter_model.bin"

# settings that are read here, or that say nothing of the sum
_KNOWN = frozenset({
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "eva_config",
    "exclude_modules", "fan_in_fan_out", "inference_mode", "init_lora_weights", "layers_pattern",
    "layers_to_transform", "lora_alpha", "lora_dropout", "megatron_core", "peft_type",
    "peft_version", "qalora_group_size", "r", "rank_pattern", "revision", "target_modules",
    "task_type", "use_rslora",
})  # fmt: skip
# the others (pissa, olora, corda, loftq, …) take something out of the base before they begin
_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
_TENSOR = re.compile(
    r"base_model\.model\.(?P<module>.+)\.(?:lora_(?P<linear>[AB])\.weight"
    r"|lora_embedding_(?P<embedding>[AB]))"
)
_DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_MOST_ALPHA = 1e30  # far above any that was trained, and still a float32
_MOST_NAME = 256  # characters of a tensor's
_INSTEAD = "merge it into its base with peft, and serve that folder"


@dataclass(frozen=True, kw_only=True)
class Factor:
    """The change of one weight, scaling · B·A, in float32.

    `a` is (rank, in) and `b` (out, rank); of an embedding it is the change of the transposed
    weight. `module` is the name of the layer in the base.
    """

    module: str
    a: NDArray[np.float32]
    b: NDArray[np.float32]
    scaling: float
    embedding: bool


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """A checked adapter. `digest` is the SHA-256 of its two files, in hex."""

    folder: Path
    digest: str
    config: dict[str, Any]
    factors: tuple[Factor, ...]

    def targets(self, module: str) -> bool:
        """Must it have factors for this layer? Not known, so False, if it leaves some out by
        number, or names none."""
        targets, excluded = self.config.get("target_modules"), self.config.get("exclude_modules")
        if self.config.get("layers_to_transform") is not None or targets in (None, "all-linear"):
            return False
        return _named(targets, module) and not (excluded and _named(excluded, module))


def check(folder: Path) -> dict[str, Any]:
    """The config of the adapter in `folder`, if it is one that can be merged and its files are
    whole. Reads no weights, runs no pattern.

    Raises:
        ModelUnusable: the first thing that is wrong, and what to do.
    """
    if not folder.is_dir():
        raise ModelUnusable(f"the adapter folder {folder} does not exist; check `adapter`")
    config = folders.parsed(folder, CONFIG)
    _check_config(folder / CONFIG, config)
    if not (folder / WEIGHTS).is_file() and (folder / PICKLE).exists():
        raise ModelUnusable(
            f"{folder / PICKLE} may be a pickle, which runs code when it is read; "
            f"save the adapter as {WEIGHTS}"
        )
    folders.tensors(folder, WEIGHTS)
    return config


def read(folder: Path) -> Adapter:
    """The adapter in `folder`, its weights in memory.

    Raises:
        ModelUnusable: the first thing that is wrong, and what to do.
    """
    config = check(folder)
    path = folder / WEIGHTS
    try:
        digest = hashlib.sha256((folder / CONFIG).read_bytes())
        content = bytearray(path.stat().st_size)  # which the factors are views of
        with path.open("rb") as file:
            file.readinto(content)
    except OSError as error:
        raise ModelUnusable(f"{path} cannot be read ({error.strerror}); fetch it again") from None
    digest.update(content)
    pairs: dict[tuple[str, bool], dict[str, NDArray[np.float32]]] = {}
    for name, tensor in folders.tensors(folder, WEIGHTS).items():
        found = _TENSOR.fullmatch(name) if len(name) <= _MOST_NAME else None
        if found is None:
            raise ModelUnusable(
                f"{path} holds {name[:_MOST_NAME]}, which is no factor of LoRA; {_INSTEAD}"
            )
        key = (found["module"], found["embedding"] is not None)
        values = _values(path, name, tensor, content)
        pairs.setdefault(key, {})[found["linear"] or found["embedding"]] = values
    if not pairs:
        raise ModelUnusable(f"{path} holds no factors of LoRA; save the adapter again")
    factors = [_factor(path, config, key, pair) for key, pair in sorted(pairs.items())]
    return Adapter(folder=folder, digest=digest.hexdigest(), config=config, factors=tuple(factors))


def digest_of(path: Path) -> str:
    """The SHA-256 of an adapter that is one file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tag(digest: str) -> str:
    """What tells engines with this adapter from those without, or with another."""
    return f"lora-{digest[:16]}"


def _check_config(path: Path, config: dict[str, Any]) -> None:
    kind = config.get("peft_type")
    if kind != "LORA":
        raise ModelUnusable(f"{path} describes an adapter of the kind {kind}, not LORA; {_INSTEAD}")
    for key, value in sorted(config.items()):
        if key not in _KNOWN and value not in (None, False, "", [], {}):
            raise ModelUnusable(f"{path} sets {key}, which is not supported; {_INSTEAD}")
    if config.get("bias", "none") != "none":
        raise ModelUnusable(f"{path} sets bias to {config['bias']!r}; {_INSTEAD}")
    start = config.get("init_lora_weights")
    if start not in _STARTS:
        raise ModelUnusable(
            f"{path} sets init_lora_weights to {start!r}, which changes the base; {_INSTEAD}"
        )
    ranks, alphas = config.get("rank_pattern") or {}, config.get("alpha_pattern") or {}
    if not isinstance(ranks, dict) or not isinstance(alphas, dict):
        raise ModelUnusable(f"{path} has a pattern that is no table; save the adapter again")
    for rank in (config.get("r"), *ranks.values()):
        if type(rank) is not int or rank < 1:
            raise ModelUnusable(f"{path} has the rank {rank!r}; it must be a number above 0")
    for alpha in (config.get("lora_alpha"), *alphas.values()):
        if type(alpha) not in (int, float) or not abs(alpha) < _MOST_ALPHA:
            raise ModelUnusable(f"{path} has the alpha {alpha!r}; it must be a number")
    patterns = [*ranks, *alphas]
    for key in ("target_modules", "exclude_modules"):
        names = config.get(key)
        listed = isinstance(names, list) and all(isinstance(name, str) for name in names)
        if not (names is None or isinstance(names, str) or listed):
            raise ModelUnusable(f"{path} has {key} that are no names; save the adapter again")
        patterns += [names] if isinstance(names, str) else []
    for pattern in patterns:
        try:
            name_pattern.check(pattern)
        except ValueError as error:
            raise ModelUnusable(f"{path} has the pattern {pattern[:200]!r}: {error}") from None


def _values(path: Path, name: str, tensor: Tensor, content: bytearray) -> NDArray[np.float32]:
    kind, shape = tensor.dtype, tensor.shape
    if kind not in _DTYPES or len(shape) != 2:
        raise ModelUnusable(
            f"{path}: {name} is {kind} of shape {list(shape)}; "
            "only matrices of F32, F16 or BF16 can be merged"
        )
    data = 8 + int.from_bytes(content[:8], "little")
    try:
        begin, end = tensor.data_offsets
        part = memoryview(content)[data + begin : data + end]
        raw = np.frombuffer(part, _DTYPES[kind]).reshape(shape)
    except (ValueError, TypeError) as error:
        raise ModelUnusable(f"{path} is not whole ({name}: {error}); fetch it again") from None
    if kind == "BF16":  # the upper half of a float32
        raw = (raw.astype(np.uint32) << 16).view(np.float32)
    values = np.require(raw, np.float32, ["ALIGNED", "C_CONTIGUOUS"])
    if not np.isfinite(values).all():
        raise ModelUnusable(f"{path}: {name} holds numbers that are none; fetch the adapter again")
    return values


def _factor(
    path: Path, config: dict[str, Any], key: tuple[str, bool], pair: dict[str, Any]
) -> Factor:
    module, embedding = key
    if len(pair) != 2:
        raise ModelUnusable(f"{path} has one factor only for {module}; save the adapter again")
    a, b = pair["A"], pair["B"]
    if not _named(config.get("target_modules") or "all-linear", module):
        raise ModelUnusable(
            f"{path} has factors for {module}, which is none of its target_modules; "
            "save the adapter again"
        )
    rank = _pattern(config.get("rank_pattern") or {}, module, config["r"])
    alpha = _pattern(config.get("alpha_pattern") or {}, module, config["lora_alpha"])
    if not a.shape[0] == b.shape[1] == rank:
        raise ModelUnusable(
            f"{path}: the factors of {module} are {a.shape} and {b.shape}, and {CONFIG} "
            f"says rank {rank}; save the adapter again"
        )
    scaling = alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
    return Factor(module=module, a=a, b=b, scaling=scaling, embedding=embedding)


def _named(names: str | Collection[str], module: str) -> bool:
    """PEFT's rule: a string is a pattern of the whole name, a list holds names or their ends."""
    if isinstance(names, str):
        return names == "all-linear" or re.fullmatch(names, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in names)


def _pattern(patterns: dict[str, Any], module: str, default: Any) -> Any:
    """PEFT's rule: the first pattern that is the whole name or all of its end."""
    for pattern, value in patterns.items():
        if re.match(name_pattern.ending(pattern), module):
            return value
    return default
