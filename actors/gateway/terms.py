"""The terms of a request: which version answers it, how, and how much of it the tenant may have.
What can't be answered is refused here, before anything is counted or reserved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from tether.contracts import (
    ChatInput,
    EmbeddingInput,
    Infer,
    Input,
    ModelCard,
    Sampling,
    TextInput,
)
from tether.contracts.catalog import Task
from tether.core.sampling import seeded, validated
from tether.engines import kinds
from tether.errors import BadRequest, RateLimited

_CHARACTERS_A_TOKEN = 4  # a guess for the token limit, corrected when the answer is there


class Terms(NamedTuple):
    """`characters` are those of the input, `tokens` the most that the answer may cost."""

    card: ModelCard
    sampling: Sampling
    characters: int
    tokens: int


def terms(
    infer: Infer, card: ModelCard, tenant_id: str, abilities: Mapping[str, frozenset[str]]
) -> Terms:
    """What is agreed with this tenant. `abilities` are those of each ref whose workers have said
    what they can do (see `Capabilities.abilities`).

    Raises:
        BadRequest: the model can't do this, or a parameter is out of range.
    """
    suits(card, infer.input, abilities.get(card.ref))
    sampling = validated(infer.sampling, card.context)
    most = card.policy.max_tokens
    if most and sampling.max_tokens > most:
        sampling = msgspec.structs.replace(sampling, max_tokens=most)
    sampling = seeded(sampling, tenant_id, infer.retry_token)
    characters = _characters(infer.input)
    return Terms(
        card, sampling, characters, sampling.max_tokens + characters // _CHARACTERS_A_TOKEN
    )


def suits(card: ModelCard, input: Input, can: frozenset[str] | None) -> None:
    """
    Raises:
        BadRequest: what the engine of this model can't do, by name.
    """
    task = kinds.task(card.engine)
    if isinstance(input, EmbeddingInput):
        if task is not Task.EMBED:
            raise _cannot(card, "writes answers and makes no embeddings; take another model")
    elif task is Task.EMBED:
        raise _cannot(card, "makes embeddings and writes no answers; send it to /v1/embeddings")
    elif can is None:
        return  # no worker has said anything yet; the one that gets it will
    elif isinstance(input, ChatInput):
        if "chat" not in can:
            raise _cannot(
                card, "has no chat template; send a prompt to /v1/completions", "messages"
            )
    elif "text" not in can:
        raise _cannot(card, "takes messages only; send them to /v1/chat/completions", "prompt")


def _cannot(card: ModelCard, what: str, param: str = "model") -> BadRequest:
    return BadRequest(f"model {card.ref} {what}", param=param)


def _characters(input: Input) -> int:
    if isinstance(input, EmbeddingInput):
        return sum(map(len, input.texts))
    if isinstance(input, TextInput):
        return len(input.prompt)
    return sum(len(message.content) for message in input.messages)


class Concurrency:
    """How many requests of a tenant run on a model whose policy bounds that. Holds nothing else, so
    sessions bound it."""

    __slots__ = ("_running",)

    def __init__(self) -> None:
        self._running: Counter[tuple[str, str]] = Counter()

    def __len__(self) -> int:
        return len(self._running)

    def enter(self, tenant_id: str, card: ModelCard, *, resumed: bool = False) -> None:
        """Count one; `leave` must follow. A `resumed` one was let in before.

        Raises:
            RateLimited: the policy's bound is reached; nothing was counted.
        """
        most = card.policy.concurrency
        if not most:
            return
        key = tenant_id, card.ref
        if self._running[key] >= most and not resumed:
            raise RateLimited(
                f"{most} of your requests run on {card.ref}, and no more may at once; wait for one "
                "to end",
                retry_after_s=1.0,
            )
        self._running[key] += 1

    def leave(self, tenant_id: str, card: ModelCard) -> None:
        """One has ended."""
        key = tenant_id, card.ref
        if card.policy.concurrency and self._running[key] > 1:
            self._running[key] -= 1
        else:
            self._running.pop(key, None)
