"""The front door over real sockets: the `openai` package, raw requests, bad input."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import openai
import pytest

from tests.support.http_server import KEY, Served, served
from tests.support.raw_http import Raw, call, chat, events, request, said
from tests.support.waiting import PATIENCE_S
from tether.http.fingerprint import fingerprint
from tether.http.options import DoorOptions

CHAT = "/v1/chat/completions"


@pytest.fixture
async def door() -> AsyncIterator[Served]:
    async with served() as door:
        yield door


@pytest.fixture
async def client(door: Served) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=f"{door.url}/v1", api_key=KEY, max_retries=0, timeout=PATIENCE_S
    ) as client:
        yield client


async def test_openai_unary(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model="echo", messages=[{"role": "user", "content": "a b c"}], max_tokens=4
    )
    assert answer.choices[0].message.content == "a b c a "
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 4)


async def test_openai_stream(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="echo", messages=[{"role": "user", "content": "a b c"}], max_tokens=5,
        stream=True, stream_options={"include_usage": True},
    )  # fmt: skip
    chunks = [chunk async for chunk in stream]
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == "a b c a b "
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
    assert chunks[-1].usage is not None and chunks[-1].usage.total_tokens == 8


async def test_openai_text_completion(client: openai.AsyncOpenAI) -> None:
    answer = await client.completions.create(model="echo@1", prompt="x y", max_tokens=3)
    assert answer.choices[0].text == "x y x "
    stream = await client.completions.create(model="echo", prompt="x y", max_tokens=3, stream=True)
    assert "".join([chunk.choices[0].text async for chunk in stream]) == "x y x "


async def test_openai_lists_models(client: openai.AsyncOpenAI) -> None:
    assert [model.id for model in (await client.models.list()).data] == ["echo"]
    assert (await client.models.retrieve("echo@1")).id == "echo@1"
    with pytest.raises(openai.NotFoundError) as caught:
        await client.models.retrieve("org/other")
    assert caught.value.code == "model_not_found"


async def test_openai_errors(client: openai.AsyncOpenAI) -> None:
    messages = [{"role": "user", "content": "a"}]
    with pytest.raises(openai.NotFoundError) as missing:
        await client.chat.completions.create(model="no", messages=messages)  # type: ignore[arg-type]
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.AuthenticationError):
        await client.with_options(api_key="tether-acme-wrong").models.list()
    limited = client.with_options(api_key="tether-limited-secret")
    with pytest.raises(openai.RateLimitError) as limit:
        await limited.chat.completions.create(model="echo", messages=messages)  # type: ignore[arg-type]
    assert limit.value.response.headers["retry-after"] == "7"
    with pytest.raises(openai.BadRequestError) as unsupported:
        await client.chat.completions.create(model="echo", messages=messages, n=2)  # type: ignore[arg-type]
    assert unsupported.value.param == "n"


async def test_sixteen_streams_are_not_mixed_up(client: openai.AsyncOpenAI) -> None:
    async def one(number: int) -> str:
        stream = await client.chat.completions.create(
            model="echo", messages=[{"role": "user", "content": f"w{number} delay=2"}],
            max_tokens=20, stream=True,
        )  # fmt: skip
        return "".join([c.choices[0].delta.content or "" async for c in stream])

    texts = await asyncio.gather(*(one(number) for number in range(16)))
    assert texts == [f"w{number} delay=2 " * 10 for number in range(16)]


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "says"),
    [
        (CHAT, b'{"model": nope}', 400, "invalid_request", "byte 14"),
        (CHAT, b"", 400, "invalid_request", "empty"),
        (CHAT, b'{"model":"echo"}', 400, "invalid_request", "messages"),
        (CHAT, chat("a", model="other"), 404, "model_not_found", "other"),
        (CHAT, chat("a", tools=[{}]), 400, "invalid_request", "tools"),
        (CHAT, chat("bug", stream=True), 500, "internal_error", "error of ours"),
        ("/v1/completions", {"model": "echo", "prompt": [1]}, 400, "invalid_request", "prompt"),
        ("/v1/infer", {"modelId": "echo"}, 400, "invalid_request", "input"),
        ("/v1/chat", chat("a"), 404, "unknown_path", "/v1/chat"),
        ("/v1/chat/completions/", chat("a"), 404, "unknown_path", "completions/"),
        ("/v1/models", {}, 405, "method_not_allowed", "GET"),
    ],
)
async def test_bad_input(
    door: Served, path: str, body: object, status: int, code: str, says: str
) -> None:
    got, headers, answer = await call(door.port, "POST", path, body)
    assert (got, answer["error"]["code"]) == (status, code)
    assert says in answer["error"]["message"]
    assert headers["content-type"] == "application/json" and headers["x-request-id"]
    status, _, answer = await call(door.port, "POST", CHAT, chat("still up"))
    assert status == 200


async def test_wrong_method_names_the_right_one(door: Served) -> None:
    status, headers, answer = await call(door.port, "GET", CHAT)
    assert (status, headers["allow"]) == (405, "POST")
    assert answer["error"]["code"] == "method_not_allowed"


@pytest.mark.parametrize("authorization", ["", "Basic x", "Bearer tether-acme-wrong"])
async def test_wrong_key(door: Served, authorization: str) -> None:
    for path, body in ((CHAT, chat("a")), ("/v1/infer", {"modelId": "echo", "input": "a"})):
        status, headers, answer = await call(
            door.port, "POST", path, body, authorization=authorization
        )
        assert (status, answer["error"]["code"]) == (401, "invalid_api_key")
        assert headers["www-authenticate"] == "Bearer"


async def test_key_in_the_other_header(door: Served) -> None:
    status, _, _ = await call(door.port, "POST", CHAT, chat("a"), authorization="", x_api_key=KEY)
    assert status == 200


@pytest.mark.parametrize("size", [2000, 3000, 300_000])
async def test_too_large_a_body(size: int) -> None:
    async with served(options=DoorOptions(port=0, max_body_bytes=1024)) as door:
        status, headers, answer = await call(door.port, "POST", CHAT, b"x" * size)
        assert (status, answer["error"]["code"]) == (413, "body_too_large")
        assert headers["connection"] == "close"
        async with await Raw.open(door.port) as raw:  # in chunks, the length never told
            head = request("POST", CHAT, content_length="", transfer_encoding="chunked")
            raw.write(head)
            for _ in range(size // 500):
                raw.write(b"1f4\r\n" + b"x" * 500 + b"\r\n")
            raw.write(b"0\r\n\r\n")
            assert (await raw.answer())[0] == 413
        status, _, _ = await call(door.port, "POST", CHAT, chat("small"))
        assert status == 200


async def test_chunked_body_and_expect(door: Served) -> None:
    body = json.dumps(chat("a b", 2)).encode()
    async with await Raw.open(door.port) as raw:
        raw.write(request("POST", CHAT, content_length="", transfer_encoding="chunked"))
        for byte in (body[:10], body[10:]):
            raw.write(b"%x\r\n%s\r\n" % (len(byte), byte))
        raw.write(b"0\r\n\r\n")
        assert (await raw.answer())[0] == 200
        head, _, content = request("POST", CHAT, body, expect="100-continue").partition(b"\r\n\r\n")
        raw.write(head + b"\r\n\r\n")
        assert await raw.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        raw.write(content)
        assert (await raw.answer())[0] == 200


async def test_pipelined_requests_are_answered_in_order(door: Served) -> None:
    async with await Raw.open(door.port) as raw:
        raw.write(b"".join(request("POST", CHAT, chat(f"w{n}", 1)) for n in range(5)))
        for number in range(5):
            _, answer = await raw.answer()
            assert answer["choices"][0]["message"]["content"] == f"w{number} "


async def test_ids_and_traces_go_in_and_out(door: Served) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    _, headers, answer = await call(
        door.port, "POST", CHAT, chat("a"),
        x_request_id="mine-1", traceparent=f"00-{trace}-b7ad6b7169203331-01",
    )  # fmt: skip
    seen = door.node.gateway().seen[-1]
    assert headers["x-request-id"] == "mine-1" == seen.correlation_id
    assert headers["traceparent"] == seen.traceparent
    assert seen.traceparent.split("-")[1] == trace and seen.traceparent.endswith("-01")
    assert seen.retry_token != "mine-1" and not seen.explicit_token
    assert answer["id"] == f"chatcmpl-{seen.retry_token}"
    _, headers, _ = await call(door.port, "POST", CHAT, chat("a"), traceparent="nonsense")
    assert len(headers["traceparent"].split("-")[1]) == 32
    assert headers["x-content-type-options"] == "nosniff"


async def test_idempotency_key_is_the_retry_token(door: Served) -> None:
    body = json.dumps(chat("a b")).encode()
    await call(door.port, "POST", CHAT, body, idempotency_key="k1")
    seen = door.node.gateway().seen[-1]
    assert (seen.retry_token, seen.explicit_token) == ("k1", True)
    assert seen.fingerprint == fingerprint(body, "chat")
    assert (seen.endpoint, seen.join) == ("chat", True)
    status, _, answer = await call(door.port, "POST", CHAT, chat("other"), idempotency_key="k1")
    assert (status, answer["error"]["code"]) == (422, "idempotency_key_reused")
    status, _, answer = await call(door.port, "POST", CHAT, body, idempotency_key="x" * 256)
    assert (status, answer["error"]["param"]) == (400, "Idempotency-Key")


async def test_infer_whole_and_streamed(door: Served) -> None:
    body: dict[str, object] = {
        "modelId": "echo", "version": "1", "input": "a b", "maxTokens": 3, "tenantId": "acme",
        "correlationId": "c1", "retryToken": "r1", "traceId": "1" * 32,
    }  # fmt: skip
    _, headers, answer = await call(door.port, "POST", "/v1/infer", body)
    assert answer == {
        "correlationId": "c1",
        "seq": 0,
        "payload": {
            "text": "a b a ",
            "finishReason": "length",
            "usage": {"promptTokens": 2, "completionTokens": 3},
            "modelRef": "echo@1",
        },
        "done": True,
    }
    seen = door.node.gateway().seen[-1]
    assert (seen.retry_token, seen.model_ref, seen.correlation_id) == ("r1", "echo@1", "c1")
    assert headers["traceparent"].split("-")[1] == "1" * 32
    body |= {"stream": True, "retryToken": "r2"}
    _, headers, lines = await call(door.port, "POST", "/v1/infer", body)
    assert headers["content-type"] == "application/x-ndjson"
    chunks = [json.loads(line) for line in lines.splitlines()]
    assert [(c["seq"], c["done"]) for c in chunks] == [
        (0, False),
        (1, False),
        (2, False),
        (3, True),
    ]
    body |= {"retryToken": "r3"}
    _, headers, stream = await call(
        door.port, "POST", "/v1/infer", body, accept="text/event-stream"
    )
    assert headers["content-type"].startswith("text/event-stream")
    assert [event["payload"]["text"] for event in events(stream)] == ["a ", "b ", "a ", ""]


async def test_probes(door: Served) -> None:
    assert (await call(door.port, "GET", "/healthz", authorization=""))[0] == 200
    status, _, answer = await call(door.port, "GET", "/readyz", authorization="")
    assert (status, answer) == (200, {"status": "ready", "models": 1})  # how many, and no names
    assert (await call(door.port, "GET", "/metrics"))[0] == 404
    door.node.kill()
    status, headers, _ = await call(door.port, "GET", "/readyz")
    assert (status, headers["retry-after"]) == (503, "1")
    assert (await call(door.port, "GET", "/healthz"))[0] == 200


async def test_cors_only_where_configured(door: Served) -> None:
    _, headers, _ = await call(door.port, "GET", "/healthz", origin="https://a.example")
    assert "access-control-allow-origin" not in headers
    options = DoorOptions(port=0, cors_origins=("https://a.example",))
    async with served(options=options) as open_door:
        status, headers, _ = await call(
            open_door.port, "OPTIONS", CHAT, origin="https://a.example",
            access_control_request_method="POST",
            access_control_request_headers="authorization,content-type",
        )  # fmt: skip
        assert (status, headers["access-control-allow-origin"]) == (200, "https://a.example")
        assert "authorization" in headers["access-control-allow-headers"]
        status, headers, _ = await call(
            open_door.port, "POST", CHAT, chat("a"), origin="https://a.example"
        )
        assert (status, headers["access-control-allow-origin"]) == (200, "https://a.example")
        _, headers, _ = await call(open_door.port, "GET", "/healthz", origin="https://b.example")
        assert "access-control-allow-origin" not in headers


async def test_what_is_no_http(door: Served) -> None:
    async with await Raw.open(door.port) as raw:
        raw.write(b"\x16\x03\x01 hello\r\n\r\n")
        status, answer = await raw.answer()
        assert (status, answer["error"]["code"]) == (400, "invalid_request")
        assert await raw.closed()
    async with await Raw.open(door.port) as raw:
        raw.write(b"GET /healthz HTTP/1.1\r\nhost: t\r\n" + b"x-a: " + b"y" * 40_000)
        status, answer = await raw.answer()
        assert (status, answer["error"]["code"]) == (431, "head_too_large")
        assert await raw.closed()
    assert (await call(door.port, "GET", "/healthz"))[0] == 200


async def test_stream_headers(door: Served) -> None:
    async with await Raw.open(door.port) as raw:
        raw.post(CHAT, chat("a b", 3, stream=True))
        assert await raw.head() == 200
        assert raw.headers["content-type"].startswith("text/event-stream")
        assert raw.headers["x-accel-buffering"] == "no"
        assert "no-cache" in raw.headers["cache-control"]
        body = await raw.body()
        assert said(body) == "a b a " and events(body)[-1] == "[DONE]"
        raw.post(CHAT, chat("again", 1))  # the connection is kept
        assert (await raw.answer())[0] == 200
