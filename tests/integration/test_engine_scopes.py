"""Prefix reuse through an engine's process: scopes and the bound get there, the figures back."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from actors.contracts import ModelCard, Sampling
from actors.engines.engine import Engine
from actors.engines.generation import Generation
from actors.engines.hosted import host
from tests.support import tiny_gguf
from tests.support.waiting import until

PROMPT = tuple(range(2, 52))


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> ModelCard:
    return tiny_gguf.card(tiny_gguf.make(tmp_path_factory.mktemp("tiny")))


async def answer(of: Engine, scope: str) -> tuple[int, ...]:
    sampling = Sampling(max_tokens=5, temperature=0.0, seed=0)
    job = Generation(prompt_ids=PROMPT, sampling=sampling, scope=scope)
    return tuple([token async for delta in of.run(job) for token in delta.token_ids])


def shown(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"tether_engine_{name}", {"model": "tiny@1", **labels}) or 0.0


@pytest.mark.parametrize("prefix_bytes", [1 << 20, 0])
async def test_scopes_and_bound_get_there_and_the_figures_back(
    card: ModelCard, tmp_path: Path, prefix_bytes: int
) -> None:
    before = {kind: shown("tokens_total", kind=kind) for kind in ("prompt", "reused")}
    hits = shown("prefix_prompts_total", outcome="hit")
    engine = host(card, slots=4, cache_dir=tmp_path, prefix_bytes=prefix_bytes)
    await engine.open()
    try:
        assert len({await answer(engine, scope) for scope in ("ann", "bob", "ann", "bob")}) == 1
        asked = 4 * len(PROMPT)
        await until(lambda: (now := engine.snapshot()).prompt_tokens >= asked and not now.running)
        reuse = engine.snapshot().reuse
        saved = 2 * (len(PROMPT) - 1) if prefix_bytes else 0
        assert reuse.tokens == saved
        assert (reuse.hits, reuse.misses) == ((2, 2) if prefix_bytes else (0, 4))
        assert (reuse.held_bytes > 0) == (prefix_bytes > 0)
        assert reuse.held_bytes <= prefix_bytes
        assert shown("prefix_bytes") == reuse.held_bytes
        assert shown("tokens_total", kind="prompt") - before["prompt"] == asked
        assert shown("tokens_total", kind="reused") - before["reused"] == saved
        assert shown("prefix_prompts_total", outcome="hit") - hits == reuse.hits
    finally:
        await engine.close()
    assert shown("prefix_bytes") == 0


async def test_a_bad_bound_is_refused_by_name(card: ModelCard, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="prefix_bytes is -1"):
        host(card, cache_dir=tmp_path, prefix_bytes=-1)
