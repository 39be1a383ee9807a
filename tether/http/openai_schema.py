"""The bodies of OpenAI's chat and text completions, read into contracts.

Unknown fields are tolerated, as OpenAI does. A field that would change the answer and that
Tether doesn't implement is refused by its name, unless it holds the value that asks for nothing.
Source: the request schemas of OpenAI's API reference.
"""

from __future__ import annotations

from typing import Any

import msgspec

from actors.contracts import ChatInput, Message, Sampling, TextInput
from supervision.errors import BadRequest
from tether.http import json_body

ROLES = {
    "system": "system",
    "developer": "system",  # OpenAI's newer word for it
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}
COMPLETION_TOKENS = 16  # OpenAI's default for text completions
MAX_TOKENS = 1 << 24
MAX_STOPS, MAX_STOP_CHARS = 4, 256


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class ContentPart(msgspec.Struct):
    type: str
    text: str | None = None


class ChatMessage(msgspec.Struct):
    role: str
    content: str | list[ContentPart] | None = None
    tool_calls: Any = None
    function_call: Any = None


class Body(msgspec.Struct, kw_only=True):
    """What both APIs share. Fields typed Any are only looked at to be refused."""

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    n: Any = None
    logprobs: Any = None
    logit_bias: Any = None
    presence_penalty: Any = None
    frequency_penalty: Any = None


class ChatBody(Body, kw_only=True):
    messages: list[ChatMessage]
    max_completion_tokens: int | None = None
    top_logprobs: Any = None
    tools: Any = None
    tool_choice: Any = None
    functions: Any = None
    function_call: Any = None
    response_format: Any = None
    modalities: Any = None
    audio: Any = None
    prediction: Any = None
    web_search_options: Any = None


class TextBody(Body, kw_only=True):
    prompt: str | list[Any]
    best_of: Any = None
    echo: Any = None
    suffix: Any = None


# A field, and the values besides null that ask for nothing.
_COMMON: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("n", (1,)),
    ("logprobs", (False,)),
    ("logit_bias", ({},)),
    ("presence_penalty", (0,)),
    ("frequency_penalty", (0,)),
)
_CHAT: tuple[tuple[str, tuple[Any, ...]], ...] = (
    *_COMMON,
    ("top_logprobs", (0,)),
    ("tools", ([],)),
    ("tool_choice", ("none", "auto")),
    ("functions", ([],)),
    ("function_call", ("none", "auto")),
    ("response_format", ({"type": "text"},)),
    ("modalities", (["text"],)),
    ("audio", ()),
    ("prediction", ()),
    ("web_search_options", ()),
)
_TEXT: tuple[tuple[str, tuple[Any, ...]], ...] = (
    *(pair for pair in _COMMON if pair[0] != "logprobs"),
    ("logprobs", ()),  # 0 asks for the log probability of each token
    ("best_of", (1,)),
    ("echo", (False,)),
    ("suffix", ("",)),
)

_chat_decoder = msgspec.json.Decoder(ChatBody)
_text_decoder = msgspec.json.Decoder(TextBody)


class Asked(msgspec.Struct):
    """One body, understood."""

    model: str
    input: ChatInput | TextInput
    sampling: Sampling
    stream: bool
    include_usage: bool
    max_tokens_given: bool


def read_chat(body: bytes, default_max_tokens: int) -> Asked:
    """`POST /v1/chat/completions`. Raises BadRequest."""
    asked = json_body.decode(_chat_decoder, body)
    _refuse_unsupported(asked, _CHAT)
    if not asked.messages:
        raise BadRequest("messages is empty; send at least one", param="messages")
    messages = read_messages(asked.messages, "messages")
    limit, name = asked.max_tokens, "max_tokens"
    if asked.max_completion_tokens is not None:
        limit, name = asked.max_completion_tokens, "max_completion_tokens"
    return _asked(asked, ChatInput(messages=messages), limit, name, default_max_tokens)


def read_text(body: bytes) -> Asked:
    """`POST /v1/completions`. Raises BadRequest."""
    asked = json_body.decode(_text_decoder, body)
    _refuse_unsupported(asked, _TEXT)
    prompt = asked.prompt
    if isinstance(prompt, list):
        if len(prompt) != 1 or not isinstance(prompt[0], str):
            raise BadRequest(
                "prompt must be one string; several prompts or token ids are not supported",
                param="prompt",
            )
        prompt = prompt[0]
    if not prompt:
        raise BadRequest("prompt is empty; send some text", param="prompt")
    text = TextInput(prompt=prompt)
    return _asked(asked, text, asked.max_tokens, "max_tokens", COMPLETION_TOKENS)


def read_sampling(
    *,
    max_tokens: int,
    temperature: float | None,
    top_p: float | None,
    seed: int | None,
    stop: str | list[str] | None,
    names: tuple[str, str, str] = ("max_tokens", "top_p", "temperature"),
) -> Sampling:
    """Values of a request, checked; `names` is how the API calls them.

    Raises:
        BadRequest: a value is out of range; names it.
    """
    if not 1 <= max_tokens <= MAX_TOKENS:
        raise BadRequest(
            f"{names[0]} is {max_tokens}; it must be between 1 and {MAX_TOKENS}", param=names[0]
        )
    heat = 1.0 if temperature is None else temperature
    if not 0.0 <= heat <= 2.0:
        raise BadRequest(f"{names[2]} is {heat:g}; it must be between 0 and 2", param=names[2])
    mass = 1.0 if top_p is None else top_p
    if not 0.0 < mass <= 1.0:
        raise BadRequest(
            f"{names[1]} is {mass:g}; it must be above 0 and at most 1", param=names[1]
        )
    if seed is not None and not -(1 << 63) <= seed < 1 << 63:
        raise BadRequest("seed must fit into 64 bits", param="seed")
    return Sampling(
        max_tokens=max_tokens, temperature=heat, top_p=mass, seed=seed, stop=_stops(stop)
    )


def _asked(
    asked: Body, source: ChatInput | TextInput, limit: int | None, name: str, default: int
) -> Asked:
    if not asked.model:
        raise BadRequest("model is empty; GET /v1/models lists them", param="model")
    stream = bool(asked.stream)
    include_usage = False
    if asked.stream_options is not None:
        if not stream:
            raise BadRequest(
                "stream_options is only taken together with stream: true", param="stream_options"
            )
        include_usage = bool(asked.stream_options.include_usage)
    sampling = read_sampling(
        max_tokens=default if limit is None else limit,
        temperature=asked.temperature,
        top_p=asked.top_p,
        seed=asked.seed,
        stop=asked.stop,
        names=(name, "top_p", "temperature"),
    )
    given = limit is not None
    return Asked(asked.model, source, sampling, stream, include_usage, given)


def read_messages(messages: list[ChatMessage], name: str) -> tuple[Message, ...]:
    """A conversation; `name` is what the API calls the list. Raises BadRequest."""
    return tuple([_message(m, f"{name}[{i}]") for i, m in enumerate(messages)])


def _message(message: ChatMessage, where: str) -> Message:
    role = ROLES.get(message.role)
    if role is None:
        raise BadRequest(
            f"{where}.role is {message.role[:40]!r}; "
            "use system, developer, user, assistant or tool",
            param=f"{where}.role",
        )
    for name in ("tool_calls", "function_call"):
        if getattr(message, name):
            raise BadRequest(f"{where}.{name} is not supported", param=f"{where}.{name}")
    content = message.content
    if isinstance(content, str):
        return Message(role=role, content=content)
    if content is None:
        raise BadRequest(f"{where}.content is missing; send a string", param=f"{where}.content")
    for number, part in enumerate(content):
        if part.type != "text" or part.text is None:
            place = f"{where}.content[{number}]"
            raise BadRequest(
                f"{place}.type is {part.type[:40]!r}; only parts of type text, "
                "with a text, are supported",
                param=f"{place}.type",
            )
    return Message(role=role, content="".join([part.text or "" for part in content]))


def _stops(stop: str | list[str] | None) -> tuple[str, ...]:
    if stop is None:
        return ()
    stops = (stop,) if isinstance(stop, str) else tuple(stop)
    if len(stops) > MAX_STOPS:
        raise BadRequest(f"stop holds {len(stops)} strings; at most {MAX_STOPS}", param="stop")
    if any(not 0 < len(text) <= MAX_STOP_CHARS for text in stops):
        raise BadRequest(
            f"a stop string must have between 1 and {MAX_STOP_CHARS} characters", param="stop"
        )
    return stops


def _refuse_unsupported(asked: Body, table: tuple[tuple[str, tuple[Any, ...]], ...]) -> None:
    for name, harmless in table:
        value = getattr(asked, name)
        if value is not None and value not in harmless:
            raise BadRequest(f"{name} is not supported here; leave it out", param=name)
