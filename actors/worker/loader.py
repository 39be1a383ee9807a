"""The loader of models: from a model's card to an engine that has answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

from actors.artifacts.options import ArtifactOptions
from actors.artifacts.peers import Peers
from actors.contracts import (
    ChatInput,
    EmbeddingInput,
    Input,
    Message,
    ModelCard,
    Sampling,
    TextInput,
)
from actors.engines.engine import Engine
from actors.engines.engine_sandbox import Mode
from actors.engines.factory import prepare
from actors.engines.generation import Generation
from actors.engines.hosted import host
from actors.errors import ModelUnusable
from actors.worker import files
from supervision.telemetry import logs

log = logs.get(__name__)

PROOF_S = 120.0  # for the first token of a model that was just loaded


async def load(
    card: ModelCard,
    *,
    slots: int,
    queue: int,
    threads: int,
    cache_dir: Path,
    artifacts: ArtifactOptions,
    stuck_s: float = 60.0,
    probe_s: float = 30.0,
    prefix_bytes: int = 0,
    gpus: str = "all",
    sandbox: Mode = "auto",
    peers: Callable[[], Peers] | None = None,
    sized: Callable[[int], None] = lambda size: None,
) -> Engine:
    """Prepare the model's files, load it, and have it answer a real request with one token. `peers`
    are where an artifact may come from besides the replicas, see `actors.artifacts.source`. `sized`
    is told how many bytes the files have, and may raise.

    Raises:
        TetherError: it can't be loaded, or does not answer, in one sentence.
    """
    began = time.monotonic()
    card = await asyncio.to_thread(_prepared, card, cache_dir, artifacts, peers)
    sized(files.estimate(card))
    engine = host(
        card,
        slots=slots,
        queue=queue,
        threads=threads,
        cache_dir=cache_dir,
        stuck_s=stuck_s,
        probe_s=probe_s,
        prefix_bytes=prefix_bytes,
        gpus=gpus,
        sandbox=sandbox,
    )
    try:
        await engine.open()
        async with asyncio.timeout(PROOF_S):
            await _prove(engine)
    except TimeoutError:
        await engine.close()
        raise ModelUnusable(
            f"model {card.ref} was loaded but gave no token within {PROOF_S:g} s"
        ) from None
    except BaseException:
        await engine.close()
        raise
    log.info("model ready", model=card.ref, seconds=round(time.monotonic() - began, 2))
    return engine


def _prepared(
    card: ModelCard,
    cache_dir: Path,
    artifacts: ArtifactOptions,
    peers: Callable[[], Peers] | None = None,
) -> ModelCard:
    """`card` with its files in place: those of artifacts fetched and verified."""
    if card.artifacts:
        from actors.artifacts.source import localized

        card = localized(card, cache_dir, artifacts, peers=peers)
    prepare(card, cache_dir)
    return card


async def _prove(engine: Engine) -> None:
    input: Input = (
        EmbeddingInput(texts=("Hello",))
        if engine.capabilities.embeds
        else ChatInput(messages=(Message(role="user", content="Hello"),))
        if engine.capabilities.chat
        else TextInput(prompt="Hello")
    )
    sampling = Sampling(max_tokens=1, temperature=0.0, seed=0)
    prompt_ids = await engine.prompt(input)
    engine.check(len(prompt_ids), sampling)
    said = 0
    async with aclosing(engine.run(Generation(prompt_ids=prompt_ids, sampling=sampling))) as deltas:
        async for delta in deltas:
            said += len(delta.token_ids) + len(delta.text)
    if not said:
        raise ModelUnusable("the model was loaded but answered with nothing")
