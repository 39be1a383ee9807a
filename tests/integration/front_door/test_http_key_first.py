"""Who has no key, or none yet, takes nothing from who has one."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest

from tests.support.http_server import Served, served
from tests.support.raw_http import Raw, call, chat, request
from tests.support.waiting import NEVER_S, PATIENCE_S, until
from tether.http.options import DoorOptions

CHAT = "/v1/chat/completions"
WRONG = "Bearer tether-acme-wrong"
BODY = 4 << 20
ROUTES = (CHAT, "/v1/completions", "/v1/embeddings", "/v1/infer", "/v1/registry/models")


async def half_sent(door: Served, path: str = CHAT, size: int = BODY, **headers: str) -> Raw:
    """A connection with a request whose body doesn't come."""
    raw = await Raw.open(door.port)
    raw.write(request("POST", path, b"{", **{"content_length": str(size), **headers}))
    return raw


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("key", [WRONG, "", "Basic x"])
async def test_a_bad_key_is_refused_before_its_body(path: str, key: str) -> None:
    async with served(options=DoorOptions(port=0, body_timeout_s=NEVER_S)) as door:
        async with await half_sent(door, path, authorization=key) as raw:
            async with asyncio.timeout(PATIENCE_S):
                status, answer = await raw.answer()
            assert (status, answer["error"]["code"]) == (401, "invalid_api_key")
        async with await half_sent(door, path, authorization=key, expect="100-continue") as raw:
            async with asyncio.timeout(PATIENCE_S):
                assert await raw.head() == 401  # and no 100 before


async def test_half_sent_bodies_with_a_bad_key_take_no_slot() -> None:
    options = DoorOptions(port=0, max_requests=2, body_timeout_s=NEVER_S)
    async with served(options=options) as door, contextlib.AsyncExitStack() as stack:
        for _ in range(20):
            await stack.enter_async_context(await half_sent(door, authorization=WRONG))
        for _ in range(20):
            assert (await call(door.port, "POST", CHAT, chat("a")))[0] == 200
        await until(lambda: door.admission.running == 0)


@pytest.mark.parametrize("path", ["/v1/registry/models", "/v1/registry/models/echo@1/promote"])
async def test_the_registry_waits_for_no_body_for_ever(path: str) -> None:
    for timeout_s in (0.2, 2.0, 20.0):  # a slow machine may be too late with the head, too
        options = DoorOptions(port=0, body_timeout_s=timeout_s)
        async with served(options=options) as door, await half_sent(door, path, 100) as raw:
            try:
                status, answer = await raw.answer()
            except (asyncio.IncompleteReadError, ConnectionError):
                continue
            assert (status, answer["error"]["code"]) == (408, "body_too_slow")
            assert await raw.closed()
            break
    else:
        pytest.fail("a slow body was not answered")


async def test_a_known_key_costs_one_question_for_a_while() -> None:
    async with served() as door:
        for _ in range(5):
            assert (await call(door.port, "POST", CHAT, chat("a")))[0] == 200
        assert len(door.node.gateway().asked) == 1
        for _ in range(2):
            status, _, _ = await call(door.port, "POST", CHAT, chat("a"), authorization=WRONG)
            assert status == 401
        assert len(door.node.gateway().asked) == 2


async def test_a_key_that_its_gateway_refuses_is_asked_for_again() -> None:
    async with served() as door:
        assert (await call(door.port, "POST", CHAT, chat("a")))[0] == 200
        gateway = door.node.gateway()
        gateway.revoked.add("tether-acme-secret")
        for _ in range(2):
            assert (await call(door.port, "POST", CHAT, chat("a")))[0] == 401
        assert len(gateway.asked) == 2  # the first of the two was believed, and refused there


@pytest.fixture
async def crowded() -> AsyncIterator[Served]:
    """A door with room for 20 connections, of which 8 may be strangers'."""
    options = DoorOptions(
        port=0, max_connections=20, max_strangers=8, max_strangers_per_address=8,
        body_timeout_s=NEVER_S,
    )  # fmt: skip
    async with served(options=options) as door:
        yield door


async def test_strangers_take_no_connection_from_who_is_known(crowded: Served) -> None:
    async with contextlib.AsyncExitStack() as stack:
        known = await stack.enter_async_context(await Raw.open(crowded.port))
        known.post(CHAT, chat("a"))
        assert (await known.answer())[0] == 200
        heads, bodies = [], []
        for _ in range(30):
            slow = await stack.enter_async_context(await Raw.open(crowded.port))
            slow.write(b"POST /v1/infer HTTP/1.1\r\nhost:")
            heads.append(slow)
            half = await half_sent(crowded, authorization=WRONG)
            bodies.append(await stack.enter_async_context(half))
        await until(lambda: crowded.server.lobby.strangers == 8)
        assert len(crowded.server.lobby) == 9
        async with asyncio.timeout(PATIENCE_S):
            assert await heads[0].reader.read() == b""  # the first has gone, without a word
        known.post(CHAT, chat("a"))
        assert (await known.answer())[0] == 200
        for _ in range(20):  # new connections of the same tenant, too
            assert (await call(crowded.port, "POST", CHAT, chat("a")))[0] == 200


async def test_all_connections_may_be_known_ones(crowded: Served) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(20):
            raw = await stack.enter_async_context(await Raw.open(crowded.port))
            raw.post(CHAT, chat("a"))
            assert (await raw.answer())[0] == 200
        assert crowded.server.lobby.strangers == 0
        async with await Raw.open(crowded.port) as late:
            assert (await late.answer())[0] == 503
            assert await late.closed()


async def test_bodies_in_flight_have_a_budget() -> None:
    options = DoorOptions(port=0, body_budget_bytes=4 * BODY, body_timeout_s=NEVER_S)
    async with served(options=options) as door:
        async with contextlib.AsyncExitStack() as stack:

            async def begin(tenant: str) -> Raw:
                key = f"Bearer tether-{tenant}-secret"
                return await stack.enter_async_context(await half_sent(door, authorization=key))

            for _ in range(2):
                await begin("acme")
            await until(lambda: door.admission.running == 2)
            status, answer = await (await begin("acme")).answer()
            assert (status, answer["error"]["code"]) == (429, "rate_limit_exceeded")
            for _ in range(2):
                await begin("bolt")
            await until(lambda: door.admission.running == 4)
            refused = await begin("core")
            status, answer = await refused.answer()
            assert (status, answer["error"]["code"]) == (503, "overloaded")
            assert int(refused.headers["retry-after"]) >= 1
        await until(lambda: door.admission.running == 0)
        assert (await call(door.port, "POST", CHAT, chat("a")))[0] == 200


async def test_a_chunked_body_is_counted_as_it_comes() -> None:
    options = DoorOptions(port=0, max_body_bytes=1024, body_budget_bytes=2048)
    async with served(options=options) as door, await Raw.open(door.port) as raw:
        head = request("POST", CHAT, content_length="", transfer_encoding="chunked")
        raw.write(head + b"384\r\n" + b" " * 900)
        await until(lambda: door.admission.running == 1)
        async with await half_sent(door, size=200) as other:
            status, answer = await other.answer()
            assert (status, answer["error"]["code"]) == (429, "rate_limit_exceeded")


def filled(before: bytes, value: bytes, after: bytes) -> bytes:
    return before + value * ((BODY - len(before) - len(after)) // len(value)) + after


MANY = {
    CHAT: filled(b'{"model":"echo","messages":[],"tools":[', b"[],", b"[]]}"),
    "/v1/completions": filled(b'{"model":"echo","prompt":"a","logit_bias":[', b"{},", b"{}]}"),
    "/v1/embeddings": filled(b'{"model":"echo","input":[', b"{},", b"{}]}"),
    "/v1/infer": filled(b'{"modelId":"echo","input":[', b'{"role":"","content":""},', b"{}]}"),
}


async def test_bodies_of_many_values_stall_nobody() -> None:
    """By the processor time of this thread between two turns of the loop, as the machine may be
    busy. The client's part of it is small: the bytes are there."""
    async with served() as door, contextlib.AsyncExitStack() as stack:
        for _ in range(2):  # known before it is measured
            assert (await call(door.port, "POST", CHAT, chat("a")))[0] == 200
        raws = []
        for path in [*MANY] * 2:
            raw = await stack.enter_async_context(await Raw.open(door.port))
            raw.write(request("POST", path, content_length=str(len(MANY[path]))))
            raw.write(MANY[path][:-1])
            await raw.writer.drain()
            raws.append(raw)
        await until(lambda: door.admission.running == len(raws))
        worst, answers = 0.0, asyncio.gather(*(raw.answer() for raw in raws))
        for path, raw in zip([*MANY] * 2, raws, strict=True):
            raw.write(MANY[path][-1:])
        while not answers.done():
            before = time.thread_time()
            await asyncio.sleep(0)
            worst = max(worst, time.thread_time() - before)
        assert {status for status, _ in await answers} == {400}
        assert worst < 0.06
