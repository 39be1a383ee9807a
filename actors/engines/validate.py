"""Validation of a request: all that is wrong with it, before it costs a step of the batch."""

from __future__ import annotations

from actors.contracts import EmbeddingInput, Input, Message, Sampling, TextInput
from actors.core.sampling import validated
from actors.errors import ContextExceeded
from supervision.errors import BadRequest

ROLES = frozenset({"system", "user", "assistant", "tool"})


def request(prompt_tokens: int, sampling: Sampling, limit: int) -> None:
    """Refuse what does not fit a context of `limit` tokens, or asks for the impossible.

    Raises:
        BadRequest: the prompt is empty or a parameter is out of range; `param` names it.
        ContextExceeded: prompt and answer together do not fit.
    """
    validated(sampling, limit)
    max_tokens = sampling.max_tokens
    if prompt_tokens < 1:
        raise BadRequest("the prompt is empty; say something", param="messages")
    if prompt_tokens + max_tokens > limit:
        raise ContextExceeded(
            f"the model's context is {limit} tokens, but the prompt has {prompt_tokens} and "
            f"max_tokens asks for {max_tokens}; shorten either",
            param="max_tokens" if prompt_tokens < limit else "messages",
        )


def messages(value: Input, ref: str) -> tuple[Message, ...]:
    """The messages of a conversation that a chat template can take; `ref` is the model.

    Raises:
        BadRequest: it is no conversation, has no message, or a role is unknown.
    """
    if isinstance(value, EmbeddingInput):
        raise BadRequest(
            f"model {ref} writes answers and makes no embeddings; GET /v1/models lists others",
            param="model",
        )
    assert not isinstance(value, TextInput)
    if not value.messages:
        raise BadRequest("messages is empty; send at least one", param="messages")
    for at, message in enumerate(value.messages):
        if message.role not in ROLES:
            raise BadRequest(
                f"messages[{at}].role is {message.role!r}; use system, user, assistant or tool",
                param=f"messages[{at}].role",
            )
    return value.messages
