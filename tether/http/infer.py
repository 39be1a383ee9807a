"""`POST /v1/infer`: the contract `Infer.Request` / `Infer.Chunk` of Tether's own API.

Request: `{tenantId?, modelId, version?, input, correlationId?, retryToken?, traceId?, stream?,
maxTokens?, temperature?, topP?, seed?, stop?}`; `input` is a prompt, a list of messages, or an
object with `prompt` or `messages`. Answer: objects `{correlationId, seq, payload, done}`, one
when not streamed, else one a line (NDJSON), or one an event if the client accepts
`text/event-stream`. `payload.text` is what the object adds; the one that is `done` also carries
`finishReason`, `usage` and `modelRef`. A stream that breaks ends with an object that has `error`
and is not `done`.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Any

import msgspec

from actors.contracts import ChatInput, Chunk, Completed, TextInput
from supervision.errors import BadRequest, Forbidden, TetherError
from tether.http import errors, json_body, openai_schema
from tether.http.api_format import ParsedRequest
from tether.http.caller import HttpCaller, check_retry_token

_json = msgspec.json.Encoder().encode
_CORRELATION = re.compile(r"[\x21-\x7e]{1,128}")
_TRACE = re.compile(r"[0-9a-f]{32}")


class InferInput(msgspec.Struct):
    messages: list[openai_schema.ChatMessage] | None = None
    prompt: str | None = None


class InferBody(msgspec.Struct, rename="camel", kw_only=True):
    model_id: str
    input: str | list[openai_schema.ChatMessage] | InferInput
    tenant_id: str | None = None
    version: str | None = None
    correlation_id: str | None = None
    retry_token: str | None = None
    trace_id: str | None = None
    stream: bool | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None


_decoder = msgspec.json.Decoder(InferBody)


class InferEncoder:
    """Says an answer in objects `{correlationId, seq, payload, done}`."""

    __slots__ = ("_after", "_before", "_head", "content_type")

    def __init__(self, correlation_id: str, *, events: bool) -> None:
        self.content_type = (
            b"text/event-stream; charset=utf-8" if events else b"application/x-ndjson"
        )
        self._head = b'{"correlationId":%s,"seq":' % _json(correlation_id)
        self._before, self._after = (b"data: ", b"\n\n") if events else (b"", b"\n")

    def whole(self, item: Completed) -> bytes:
        usage = item.usage
        return b"".join(
            (
                self._head,
                b'%d,"payload":{"text":' % item.seq,
                _json(item.text),
                b',"finishReason":"%s","usage":{"promptTokens":%d,"completionTokens":%d},'
                % (item.finish.encode(), usage.prompt_tokens, usage.completion_tokens),
                b'"modelRef":%s},"done":true}' % _json(item.model_ref),
            )
        )

    def part(self, item: Chunk, *, first: bool) -> bytes:
        if not item.text and not first:
            return b""
        return b"".join(
            (
                self._before,
                self._head,
                b'%d,"payload":{"text":' % item.seq,
                _json(item.text),
                b'},"done":false}',
                self._after,
            )
        )

    def end(self, item: Completed, *, first: bool) -> bytes:
        return self._before + self.whole(item) + self._after

    def broken(self, error: TetherError) -> bytes:
        told: dict[str, Any] = errors.payload(error)
        line = self._head + b'null,"payload":null,"done":false,"error":' + _json(told["error"])
        return self._before + line + b"}" + self._after


class InferFormat:
    """`POST /v1/infer`."""

    route = "infer"
    endpoint = "infer"

    def __init__(self, default_max_tokens: int) -> None:
        self._default_max_tokens = default_max_tokens

    def read(
        self, body: bytes, headers: dict[bytes, bytes], caller: HttpCaller, request_id: str
    ) -> ParsedRequest:
        asked = json_body.decode(_decoder, body)
        if asked.tenant_id is not None and not caller.credential.startswith(
            f"tether-{asked.tenant_id}-"
        ):
            raise Forbidden("tenantId is not the tenant of this API key", param="tenantId")
        correlation_id = asked.correlation_id or request_id
        if not _CORRELATION.fullmatch(correlation_id):
            raise BadRequest(
                "correlationId must have 1 to 128 printable ASCII characters and no space",
                param="correlationId",
            )
        if asked.trace_id and not (_TRACE.fullmatch(asked.trace_id) and asked.trace_id.strip("0")):
            raise BadRequest("traceId must be 32 lowercase hex digits, not all 0", param="traceId")
        token = asked.retry_token
        token = "" if token is None else check_retry_token(token, "retryToken")
        if token and caller.retry_token and token != caller.retry_token:
            raise BadRequest(
                "retryToken differs from the header Idempotency-Key; send one of them",
                param="retryToken",
            )
        sampling = openai_schema.read_sampling(
            max_tokens=self._default_max_tokens if asked.max_tokens is None else asked.max_tokens,
            temperature=asked.temperature,
            top_p=asked.top_p,
            seed=asked.seed,
            stop=asked.stop,
            names=("maxTokens", "topP", "temperature"),
        )
        events = b"text/event-stream" in headers.get(b"accept", b"")
        model_ref, source = _model_ref(asked.model_id, asked.version), _input(asked.input)
        # A retry may come with another correlationId or traceId and still be the same request.
        said = _json((model_ref, source, sampling))
        same = blake2b(said, digest_size=32, person=self.endpoint.encode()).digest()
        return ParsedRequest(
            model_ref=model_ref,
            input=source,
            sampling=sampling,
            stream=bool(asked.stream),
            encoder=InferEncoder(correlation_id, events=events),
            retry_token=token,
            correlation_id=correlation_id,
            trace_id=asked.trace_id or "",
            fingerprint=same,
            max_tokens_given=asked.max_tokens is not None,
        )


def _model_ref(model_id: str, version: str | None) -> str:
    if not model_id:
        raise BadRequest("modelId is empty; GET /v1/models lists them", param="modelId")
    if not version:
        return model_id
    if "@" in model_id:
        raise BadRequest("modelId names a version already; leave version out", param="version")
    return f"{model_id}@{version}"


def _input(source: str | list[openai_schema.ChatMessage] | InferInput) -> ChatInput | TextInput:
    messages = source if isinstance(source, list) else None
    prompt = source if isinstance(source, str) else None
    if isinstance(source, InferInput):
        messages, prompt = source.messages, source.prompt
        if (messages is None) == (prompt is None):
            raise BadRequest("input must hold either prompt or messages", param="input")
    if messages is not None:
        if not messages:
            raise BadRequest("input holds no messages; send at least one", param="input")
        return ChatInput(messages=openai_schema.read_messages(messages, "input"))
    if not prompt:
        raise BadRequest("input is empty; send some text", param="input")
    return TextInput(prompt=prompt)
