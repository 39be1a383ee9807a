"""A model folder with something missing is one clear sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from actors.contracts import ModelCard
from actors.engines import folder, tokenizer
from actors.engines.factory import create, prepare
from actors.errors import ModelUnusable


def weights(path: Path, size: int = 16, cut: int = 0) -> None:
    header = json.dumps(
        {"w": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}
    ).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(size - cut))


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text('{"model_type": "llama"}')
    (path / "tokenizer.json").write_text("{}")
    weights(path / "model.safetensors")
    return path


def sharded(path: Path) -> None:
    (path / "model.safetensors").unlink()
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    for name in names.values():
        weights(path / name)
    (path / folder.INDEX).write_text(json.dumps({"weight_map": names}))


def test_a_whole_folder_passes(whole: Path) -> None:
    assert folder.check(whole)["model_type"] == "llama"
    sharded(whole)
    assert folder.check(whole)["model_type"] == "llama"


def lose_a_shard(path: Path) -> None:
    sharded(path)
    (path / "model-00002-of-00002.safetensors").unlink()


def point(path: Path, name: str) -> None:
    sharded(path)
    (path / folder.INDEX).write_text(json.dumps({"weight_map": {"a": name}}))


def point_outside(path: Path) -> None:
    point(path, "../x.safetensors")


def deep(path: Path) -> None:
    header = b'{"a":' * 5000
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (lambda p: (p / "config.json").unlink(), "has no config.json"),
        (lambda p: (p / "config.json").write_text("{"), "config.json cannot be read"),
        (lambda p: (p / "config.json").write_text("[]"), "not a JSON object"),
        (lambda p: (p / "config.json").write_text("{}"), "no model_type"),
        (lambda p: (p / "tokenizer.json").unlink(), "has no tokenizer.json"),
        (lambda p: (p / "model.safetensors").unlink(), "neither model.safetensors nor"),
        (lambda p: point(p, "x" * 300), "has no xxx"),  # longer than a name can be
        (lambda p: point(p, "\0"), "has no"),
        (lambda p: (p / "config.json").write_text('{"a":' * 5000), "cannot be read"),
        (lambda p: (p / "config.json").write_text("[" * 100_000), "cannot be read"),
        (lambda p: deep(p / "model.safetensors"), "is not whole"),
        (lambda p: weights(p / "model.safetensors", cut=3), "is not whole"),
        (lambda p: (p / "model.safetensors").write_bytes(b"\xff" * 64), "is not whole"),
        (lambda p: (p / "model.safetensors").write_bytes(b""), "is not whole"),
        (lose_a_shard, "has no model-00002-of-00002"),
        (point_outside, "points out of its folder"),
    ],
)
def test_each_fault_is_told(whole: Path, harm: Callable[[Path], object], told: str) -> None:
    harm(whole)
    with pytest.raises(ModelUnusable, match=told) as caught:
        folder.check(whole)
    assert "\n" not in caught.value.message


def card(**more: str) -> ModelCard:
    return ModelCard(name="m", version="1", **{"engine": "transformers", **more})


@pytest.mark.parametrize(
    ("card", "told"),
    [
        (card(source="/nowhere/at/all"), "does not exist"),
        (card(), "has no source"),
        (card(source="package:other"), "the only package known"),
    ],
)
def test_a_wrong_source_is_told(card: ModelCard, told: str, tmp_path: Path) -> None:
    with pytest.raises(ModelUnusable, match=told):
        prepare(card, tmp_path)


def test_an_unknown_engine_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelUnusable, match="use gguf, transformers, vllm, embedding or echo"):
        create(card(engine="magic"), cache_dir=tmp_path)
    with pytest.raises(ValueError, match="slots is 0"):
        create(card(engine="echo"), cache_dir=tmp_path, slots=0)


def test_an_install_without_torch_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.engines.weights.util.find_spec", lambda name: None)
    for engine in ("transformers", "embedding"):
        with pytest.raises(ModelUnusable, match="needs torch; run scripts/install"):
            prepare(card(engine=engine), tmp_path)


def test_an_engine_without_weights_needs_no_folder(tmp_path: Path) -> None:
    assert prepare(card(engine="echo"), tmp_path) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("said", [{}, {"a": 1}, "1", [[1]], [1, None], 1.5, True])
def test_ends_that_are_no_tokens_are_told(whole: Path, said: object) -> None:
    (whole / "generation_config.json").write_text(json.dumps({"eos_token_id": said}))
    with pytest.raises(ModelUnusable, match="eos_token_id that is no token"):
        tokenizer.ends(whole, {})


def test_ends_are_one_token_or_several(whole: Path) -> None:
    assert tokenizer.ends(whole, {}) == frozenset()
    assert tokenizer.ends(whole, {"eos_token_id": 2}) == {2}
    (whole / "generation_config.json").write_text('{"eos_token_id": [3, 4]}')
    assert tokenizer.ends(whole, {"eos_token_id": 2}) == {3, 4}
    (whole / "generation_config.json").write_text("[]")
    with pytest.raises(ModelUnusable, match="not a JSON object"):
        tokenizer.ends(whole, {})
