"""The thread of an engine: what goes wrong before the first step is told to who opens it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from actors.contracts import ModelCard
from actors.engines.batch_engine import BatchEngine, Loaded
from actors.engines.engine import Capabilities, EngineOptions
from actors.errors import ModelUnusable
from tests.support.waiting import PATIENCE_S


class Halfway(BatchEngine):
    """Loads what can't be computed."""

    unloaded = False

    def _load(self) -> Loaded:
        model: Any = object()
        return Loaded(
            model=model,
            table=(),
            capabilities=Capabilities(resume="exact", tag="t", context=8, chat=False),
            unload=self._unload,
        )

    def _unload(self) -> None:
        self.unloaded = True

    def _templated(self, messages: list[dict[str, str]]) -> str:
        return ""

    def _encode(self, text: str, *, special: bool) -> tuple[int, ...]:
        return ()


async def test_a_batch_that_cannot_be_made_is_told_and_lets_go_of_the_model(tmp_path: Path) -> None:
    engine = Halfway(
        ModelCard(name="m", version="1", engine="gguf"), EngineOptions(cache_dir=tmp_path)
    )
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(ModelUnusable, match="could not be loaded"):
            await engine.open()
    assert engine.unloaded
