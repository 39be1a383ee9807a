"""The protocol of an engine: what each is to the worker that owns it.

An engine turns prompt ids into a stream of `Delta`s. It is driven from one asyncio loop;
where it computes is its own affair. A continuation passes the ids emitted so far and is
never templated or tokenized again; the n-th output token is a function of the prompt, the
ids before it, and (seed, n) alone, whatever else is in the batch.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from actors.contracts import Input, Sampling
from actors.engines.generation import Delta, Generation

PREFIX_BYTES = 256 << 20  # 5,800 tokens of a model of 135 million parameters in float32


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a loaded model can do.

    `resume` is exact when a continuation equals the undisturbed run between engines of equal
    `tag`, prefix when only what was sent is sure to stand. `context` is in tokens, prompt and
    answer together. `chat` says that there is a chat template, `embeds` that it makes vectors of
    texts and no answers.
    """

    resume: Literal["exact", "prefix"]
    tag: str
    context: int
    chat: bool
    embeds: bool = False

    @property
    def abilities(self) -> str:
        """The same in words for whoever chooses a model: embed, or text and chat; how it resumes;
        seeds, when a seed gives the same answer again."""
        if self.embeds:
            return "embed"
        return f"text{' chat' if self.chat else ''} seeds resume:{self.resume}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reuse:
    """Beginnings of prompts that were not computed again. `tokens` of them; `hits` prompts had
    one, `misses` had none. Of finished answers `held_bytes` are kept; `evicted` counts the tokens
    that were given up for others."""

    tokens: int = 0
    hits: int = 0
    misses: int = 0
    held_bytes: int = 0
    evicted: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """How an engine is. `running` and `queued` count answers; `prompt_tokens` (those that were
    used again too), `output_tokens` and `steps` only grow; `memory_bytes` is what its answers hold,
    `resident_bytes` its process where that is its own; `fault` is a sentence when it cannot go
    on and must be started anew."""

    running: int = 0
    queued: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    steps: int = 0
    memory_bytes: int = 0
    resident_bytes: int = 0
    fault: str = ""
    reuse: Reuse = Reuse()


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """Bounds of an engine.

    `slots` answers run at once and `queue` more wait; `threads` are computing threads;
    `prefill_tokens` is how many prompt tokens one step may take in, so a long prompt cannot
    hold up the answers that are running. Finished answers are kept in `prefix_bytes` of memory,
    for prompts that begin as they do; 0 computes every prompt as a whole.

    Raises:
        ValueError: a bound is out of range.
    """

    cache_dir: Path
    slots: int = 32
    threads: int = 1
    queue: int = 64
    prefill_tokens: int = 256
    prefix_bytes: int = PREFIX_BYTES

    def __post_init__(self) -> None:
        for name, low, high in (
            ("slots", 1, 4096),
            ("threads", 1, 1024),
            ("queue", 0, 65536),
            ("prefill_tokens", 1, 65536),
            ("prefix_bytes", 0, 1 << 50),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name} is {value}; it must lie between {low} and {high}")


class Engine(Protocol):
    """A model that answers. All methods are called on one loop."""

    capabilities: Capabilities
    slots: int

    async def open(self) -> None:
        """Load the model; `capabilities` hold from here on.

        Raises:
            TetherError: it cannot be loaded, in one sentence.
        """

    async def prompt(self, input: Input) -> tuple[int, ...]:
        """The token ids of a request.

        Raises:
            BadRequest: the input does not suit the model.
            ContextExceeded: it is longer than the model's context.
        """

    def check(self, prompt_tokens: int, sampling: Sampling) -> None:
        """Refuse before the batch what could never be answered.

        Raises:
            BadRequest: a parameter is out of range (`param` names it).
            ContextExceeded: prompt and max_tokens do not fit the context.
        """

    def run(self, generation: Generation) -> AsyncGenerator[Delta, None]:
        """Compute an answer; closing the generator ends the computation.

        Raises:
            Overloaded: all slots are taken and the queue is full.
            TetherError: this answer failed; others are not touched.
        """

    def snapshot(self) -> Snapshot:
        """How the engine is now; cheap."""

    async def close(self) -> None:
        """Let go of the model; answers that still run are refused as `Draining`. Safe twice."""
