"""Validation of a request: whether a version can answer it, how, and how much of it the tenant may
have. What can't be answered is refused here, before anything is counted or reserved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from actors.contracts import ChatInput, EmbeddingInput, Infer, Input, ModelCard, Sampling, TextInput
from actors.contracts.catalog import Task
from actors.core import engine_kinds
from actors.core.sampling import seeded, validated
from supervision.errors import BadRequest

_CHARACTERS_A_TOKEN = 4  # a guess for the token limit, corrected when the answer is there


class ValidRequest(NamedTuple):
    """`characters` are those of the input, `tokens` the most that the answer may cost."""

    card: ModelCard
    sampling: Sampling
    characters: int
    tokens: int


def valid_request(
    infer: Infer, card: ModelCard, tenant_id: str, abilities: Mapping[str, frozenset[str]]
) -> ValidRequest:
    """What is agreed with this tenant. `abilities` are those of each ref whose workers have said
    what they can do (see `Capabilities.abilities`).

    Raises:
        BadRequest: the model can't do this, or a parameter is out of range.
    """
    suits(card, infer.input, abilities.get(card.ref))
    sampling = infer.sampling
    if not infer.max_tokens_given:
        most = min(sampling.max_tokens, card.policy.reserve_tokens or card.context, card.context)
        sampling = msgspec.structs.replace(sampling, max_tokens=most)
    sampling = validated(sampling, card.context)
    most = card.policy.max_tokens
    if most and sampling.max_tokens > most:
        sampling = msgspec.structs.replace(sampling, max_tokens=most)
    sampling = seeded(sampling, tenant_id, infer.retry_token)
    characters = _characters(infer.input)
    return ValidRequest(
        card, sampling, characters, sampling.max_tokens + characters // _CHARACTERS_A_TOKEN
    )


def suits(card: ModelCard, input: Input, can: frozenset[str] | None) -> None:
    """
    Raises:
        BadRequest: what the engine of this model can't do, by name.
    """
    task = engine_kinds.task(card.engine)
    if isinstance(input, EmbeddingInput):
        if task is not Task.EMBED:
            raise _cannot(card, "writes answers and makes no embeddings; take another model")
    elif task is Task.EMBED:
        raise _cannot(card, "makes embeddings and writes no answers; send it to /v1/embeddings")
    elif can is None:
        return  # no worker has said anything yet; the one that gets it will
    elif isinstance(input, ChatInput):
        if "chat" not in can:
            raise _cannot(card, "has no chat template; send a prompt to /v1/unsettled", "messages")
    elif "text" not in can:
        raise _cannot(card, "takes messages only; send them to /v1/chat/unsettled", "prompt")


def _cannot(card: ModelCard, what: str, param: str = "model") -> BadRequest:
    return BadRequest(f"model {card.ref} {what}", param=param)


def _characters(input: Input) -> int:
    if isinstance(input, EmbeddingInput):
        return sum(map(len, input.texts))
    if isinstance(input, TextInput):
        return len(input.prompt)
    return sum(len(message.content) for message in input.messages)
