"""`POST /v1/chat/completions` and `POST /v1/completions`: OpenAI's two formats.

Answers are put together from fragments encoded once per request, so that a chunk costs one
escape of its text and one concatenation. Shapes: `ChatCompletion`, `ChatCompletionChunk` and
`Completion` of the `openai` package.
"""

from __future__ import annotations

import time

import msgspec

from actors.contracts import Chunk, Completed, Usage
from supervision.errors import TetherError
from tether.http import errors, openai_schema
from tether.http.api_format import ParsedRequest
from tether.http.caller import HttpCaller

_json = msgspec.json.Encoder().encode
DONE = b"data: [DONE]\n\n"
SSE = b"text/event-stream; charset=utf-8"


def _usage(usage: Usage) -> bytes:
    return b'{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}' % (
        usage.prompt_tokens,
        usage.completion_tokens,
        usage.prompt_tokens + usage.completion_tokens,
    )


class _Encoder:
    """What chat and text share: the head of the object, usage and the end."""

    content_type = SSE
    kind = b""
    chunk_kind = b""
    prefix = b""

    __slots__ = ("_head", "_tail", "_with_usage")

    def __init__(self, request_id: str, model: str, *, stream: bool, with_usage: bool) -> None:
        self._head = b'{"id":"%s%s","object":"%s","created":%d,"model":%s,"choices":[' % (
            self.prefix,
            request_id.encode(),
            self.chunk_kind if stream else self.kind,
            int(time.time()),
            _json(model),
        )
        if stream:
            self._head = b"data: " + self._head
        self._with_usage = with_usage
        # With include_usage every chunk but the last carries "usage": null.
        self._tail = b'],"usage":null}\n\n' if with_usage else b"]}\n\n"

    def _close(self, item: Completed) -> bytes:
        """After the last choice: who has answered, and the end."""
        tail = b',"usage":null}\n\n' if self._with_usage else b"}\n\n"
        who = b"]" + _fingerprint(item) + tail
        if not self._with_usage:
            return who + DONE
        return who + self._head + b'],"usage":' + _usage(item.usage) + b"}\n\n" + DONE

    def broken(self, error: TetherError) -> bytes:
        return b"data: " + errors.body(error) + b"\n\n"


class ChatEncoder(_Encoder):
    kind = b"chat.completion"
    chunk_kind = b"chat.completion.chunk"
    prefix = b"chatcmpl-"

    __slots__ = ("_after", "_before")

    def __init__(self, request_id: str, model: str, *, stream: bool, with_usage: bool) -> None:
        super().__init__(request_id, model, stream=stream, with_usage=with_usage)
        self._before = self._head + b'{"index":0,"delta":{"content":'
        self._after = b'},"logprobs":null,"finish_reason":null}' + self._tail

    def whole(self, item: Completed) -> bytes:
        return b"".join(
            (
                self._head,
                b'{"index":0,"message":{"role":"assistant","content":',
                _json(item.text),
                b',"refusal":null},"logprobs":null,"finish_reason":"',
                item.finish.encode(),
                b'"}]',
                _fingerprint(item),
                b',"usage":',
                _usage(item.usage),
                b"}",
            )
        )

    def part(self, item: Chunk, *, first: bool) -> bytes:
        if first:
            return b"".join(
                (
                    self._head,
                    b'{"index":0,"delta":{"role":"assistant","content":',
                    _json(item.text),
                    self._after,
                )
            )
        return self._before + _json(item.text) + self._after if item.text else b""

    def end(self, item: Completed, *, first: bool) -> bytes:
        said = b""
        if first or item.text:
            said = self.part(
                Chunk(seq=item.seq, token_ids=item.token_ids, text=item.text), first=first
            )
        return b"".join(
            (
                said,
                self._head,
                b'{"index":0,"delta":{},"logprobs":null,"finish_reason":"',
                item.finish.encode(),
                b'"}',
                self._close(item),
            )
        )


class TextEncoder(_Encoder):
    kind = b"text_completion"
    chunk_kind = b"text_completion"
    prefix = b"cmpl-"

    __slots__ = ()

    def whole(self, item: Completed) -> bytes:
        return b"".join(
            (
                self._head,
                self._choice(item.text, item),
                b"]",
                _fingerprint(item),
                b',"usage":',
                _usage(item.usage),
                b"}",
            )
        )

    def part(self, item: Chunk, *, first: bool) -> bytes:
        return self._head + self._choice(item.text) + self._tail if item.text or first else b""

    def end(self, item: Completed, *, first: bool) -> bytes:
        return self._head + self._choice(item.text, item) + self._close(item)

    @staticmethod
    def _choice(text: str, last: Completed | None = None) -> bytes:
        finish = b"null" if last is None else b'"%s"' % last.finish.encode()
        return b'{"text":%s,"index":0,"logprobs":null,"finish_reason":%s}' % (_json(text), finish)


def _fingerprint(item: Completed) -> bytes:
    """OpenAI's word for what has answered: the version that the model's name stood for."""
    return b',"system_fingerprint":' + _json(item.model_ref)


class ChatFormat:
    """`POST /v1/chat/completions`."""

    route = "chat_completions"
    endpoint = "chat"

    def __init__(self, default_max_tokens: int) -> None:
        self._default_max_tokens = default_max_tokens

    def read(
        self, body: bytes, headers: dict[bytes, bytes], caller: HttpCaller, request_id: str
    ) -> ParsedRequest:
        asked = openai_schema.read_chat(body, self._default_max_tokens)
        encoder = ChatEncoder(
            request_id, asked.model, stream=asked.stream, with_usage=asked.include_usage
        )
        return ParsedRequest(
            asked.model,
            asked.input,
            asked.sampling,
            asked.stream,
            encoder,
            max_tokens_given=asked.max_tokens_given,
        )


class TextFormat:
    """`POST /v1/completions`."""

    route = "completions"
    endpoint = "completions"

    def read(
        self, body: bytes, headers: dict[bytes, bytes], caller: HttpCaller, request_id: str
    ) -> ParsedRequest:
        asked = openai_schema.read_text(body)
        encoder = TextEncoder(
            request_id, asked.model, stream=asked.stream, with_usage=asked.include_usage
        )
        return ParsedRequest(
            asked.model,
            asked.input,
            asked.sampling,
            asked.stream,
            encoder,
            max_tokens_given=asked.max_tokens_given,
        )
