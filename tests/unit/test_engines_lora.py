"""Adapters that somebody has made so that reading them fails: each is one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from actors.engines import lora
from actors.errors import ModelUnusable
from supervision.runtime import codec

NAME = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
TENSORS: dict[str, dict[str, Any]] = {
    NAME.format("A"): {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 32]},
    NAME.format("B"): {"dtype": "F32", "shape": [4, 2], "data_offsets": [32, 64]},
}
CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}


def adapter(folder: Path, tensors: dict[str, Any], config: dict[str, Any]) -> Path:
    header = json.dumps(tensors).encode()
    whole = len(header).to_bytes(8, "little") + header + bytes(64)
    (folder / lora.WEIGHTS).write_bytes(whole)
    (folder / lora.CONFIG).write_text(json.dumps({**CONFIG, **config}))
    return folder


def test_one_that_is_whole_is_read(tmp_path: Path) -> None:
    found = lora.read(adapter(tmp_path, TENSORS, {"rank_pattern": {r".*\.q_proj": 2}}))
    (factor,) = found.factors
    assert factor.module == "model.layers.0.self_attn.q_proj" and factor.scaling == 2.0


@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": "a{99999999999999}"},
        {"rank_pattern": {"(" * 5000 + ")" * 5000: 2}},
        {"rank_pattern": {"(?i)q_proj": 2}},  # a pattern alone, and none in another
        {"alpha_pattern": {r"(\w|\w\w|[a-z.0-9])*X": 2}},  # takes for ever
        {"exclude_modules": "(a*)*b"},
    ],
)
def test_a_pattern_that_cannot_be_tried_is_told(tmp_path: Path, config: dict[str, Any]) -> None:
    with pytest.raises(ModelUnusable, match="has the pattern"):
        lora.check(adapter(tmp_path, TENSORS, config))


@pytest.mark.parametrize(
    "tensor",
    [
        {"dtype": ["F32"]},
        {"shape": [1 << 70, 1], "dtype": "F4"},
        {"data_offsets": [-32, 64]},
    ],
)
def test_a_tensor_that_is_none_is_told(tmp_path: Path, tensor: dict[str, Any]) -> None:
    bad = {**TENSORS, NAME.format("B"): {**TENSORS[NAME.format("B")], **tensor}}
    with pytest.raises(ModelUnusable, match="is not whole"):
        lora.read(adapter(tmp_path, bad, {}))


def test_tensors_over_each_other_are_told(tmp_path: Path) -> None:
    """A thousand names of one part of the file would be a thousand times as large in memory."""
    again = {name.replace("layers.0", "layers.1"): tensor for name, tensor in TENSORS.items()}
    with pytest.raises(ModelUnusable, match="lies over another tensor"):
        lora.read(adapter(tmp_path, TENSORS | again, {}))


def test_a_sentence_can_be_said_whatever_it_quotes(tmp_path: Path) -> None:
    """JSON has halves of characters, and nothing that is sent on may."""
    with pytest.raises(ModelUnusable, match="of the kind") as caught:
        lora.read(adapter(tmp_path, TENSORS, {"peft_type": "a\ud800"}))
    assert codec.decode_error(codec.encode_error(caught.value)).message.count("a?") == 1


def test_a_name_that_is_too_long_is_told(tmp_path: Path) -> None:
    bad = {
        f"base_model.model.{'x' * 500}.lora_{side}.weight": t
        for side, t in zip("AB", TENSORS.values(), strict=True)
    }
    with pytest.raises(ModelUnusable, match="is no factor"):
        lora.read(adapter(tmp_path, bad, {}))
