"""What happens when somebody leaves: clients, gateways, time, the door itself."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from tests.support.echo_gateway import InProcess
from tests.support.http_server import Served, served
from tests.support.raw_http import Raw, call, chat, events, request, said
from tests.support.waiting import NEVER_S, PATIENCE_S, until
from tether.http import lingering, protocol
from tether.http.options import DoorOptions

CHAT = "/v1/chat/completions"


@pytest.fixture
async def door() -> AsyncIterator[Served]:
    async with served() as door:
        yield door


async def first_text(raw: Raw) -> AsyncIterator[bytes]:
    """The parts of a stream after the first, which is thrown away."""
    assert await raw.head() == 200
    parts = raw.parts()
    await anext(parts)
    return parts


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("early", [True, False])
async def test_hanging_up_cancels(door: Served, stream: bool, early: bool) -> None:
    gateway = door.node.gateway()
    async with await Raw.open(door.port) as raw:
        raw.post(CHAT, chat("hold", stream=stream))
        if stream and not early:
            await first_text(raw)
        await until(lambda: gateway.running == 1)
        if not early:
            await asyncio.sleep(0.1)  # past Lifeline's patience
        assert gateway.running == 1
    await until(lambda: gateway.running == 0)
    assert gateway.cancelled == 1
    await until(lambda: door.admission.running == 0)


async def test_leaving_while_the_body_is_sent(door: Served) -> None:
    async with await Raw.open(door.port) as raw:
        raw.write(request("POST", CHAT, chat("a"))[:-5])
        await until(lambda: door.admission.running == 1)
    await until(lambda: door.admission.running == 0)
    assert not door.node.gateway().seen


async def test_slow_head_and_slow_body() -> None:
    async with served(options=DoorOptions(port=0, body_timeout_s=0.2)) as door:
        async with await Raw.open(door.port) as raw:
            assert await raw.closed()  # not a byte came
        async with await Raw.open(door.port) as raw:
            raw.write(b"POST /v1/infer HTTP/1.1\r\nhost:")
            assert await raw.closed()
    for timeout_s in (0.2, 2.0, 20.0):  # a slow machine may be too late with the head, too
        async with (
            served(options=DoorOptions(port=0, body_timeout_s=timeout_s)) as door,
            await Raw.open(door.port) as raw,
        ):
            raw.write(request("POST", CHAT, chat("a"))[:-5])
            try:
                status, answer = await raw.answer()
            except (asyncio.IncompleteReadError, ConnectionError):
                continue
            assert (status, answer["error"]["code"]) == (408, "body_too_slow")
            assert await raw.closed()
            break
    else:
        pytest.fail("a slow body was not answered")


CHUNKED = b"POST /v1/chat/completions HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("begin", "more"),
    [(b"0\r\n", b"a: b\r\n" * 1000), (b"0\r\na:", b"b" * 6000), (b"5;", b"e" * 6000)],
)
async def test_trailers_and_extensions_without_end(door: Served, begin: bytes, more: bytes) -> None:
    """They are kept in memory, and need no key."""
    async with await Raw.open(door.port) as raw:
        raw.write(CHUNKED + begin)
        assert (await raw.answer())[0] == 401
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(PATIENCE_S):
                sent = 0
                while not raw.reader.at_eof():
                    raw.write(more)
                    sent += len(more)
                    await raw.writer.drain()
                    await asyncio.sleep(0)
                    assert sent < lingering.MAX_BYTES + (16 << 20)  # TLS has no half-close
    await until(lambda: not connections(door))


async def test_trailers_are_no_headers(door: Served) -> None:
    async with await Raw.open(door.port) as raw:
        raw.write(CHUNKED + b"0\r\nauthorization: Bearer tether-acme-secret\r\n\r\n")
        assert (await raw.answer())[0] == 401
        raw.post(CHAT, chat("a"))  # and the connection goes on
        assert (await raw.answer())[0] == 200


async def test_what_follows_an_answer_keeps_no_connection_open() -> None:
    """Neither an empty line nor the rest of a body that was refused, however slowly it comes."""
    for late, status in ((b"\r\n", 200), (b"{", 401)):
        for timeout_s in (0.2, 2.0, 20.0):  # in which the request comes even on a slow machine
            async with (
                served(options=DoorOptions(port=0, body_timeout_s=timeout_s)) as door,
                await Raw.open(door.port) as raw,
            ):
                if status == 200:
                    raw.write(request("GET", "/healthz"))
                else:
                    raw.write(request("POST", CHAT, authorization="", content_length="9"))
                try:
                    assert (await raw.answer())[0] == status
                except (asyncio.IncompleteReadError, ConnectionError):
                    continue
                raw.write(late)
                async with asyncio.timeout(PATIENCE_S):
                    assert await raw.closed()
                break
        else:
            pytest.fail("it was never answered")


def connections(door: Served) -> int:
    return len(door.server._server.server_state.connections)


async def test_deadline(door: Served) -> None:
    status, _, answer = await call(door.port, "POST", CHAT, chat("hold"), x_request_timeout_s="0.1")
    assert (status, answer["error"]["code"]) == (504, "deadline_exceeded")
    for timeout_s in (0.1, 5.0, 50.0):  # in which a stream begins even on a slow machine
        async with await Raw.open(door.port) as raw:
            raw.post(CHAT, chat("hold", stream=True), x_request_timeout_s=str(timeout_s))
            if await raw.head() != 200:
                continue
            last = events(await raw.body())[-1]
            assert last["error"]["code"] == "deadline_exceeded"
            break
    else:
        pytest.fail("no stream began")
    gateway = door.node.gateway()
    await until(lambda: gateway.running == 0)
    assert gateway.cancelled == len(gateway.seen) > 0
    assert gateway.seen[-1].deadline_s <= timeout_s


@pytest.mark.parametrize("told", [True, False])
async def test_a_lost_gateway_is_resumed(door: Served, told: bool) -> None:
    """`told` is whether the tree hears of the loss before the restart."""
    async with await Raw.open(door.port) as raw:
        raw.post(CHAT, chat("x b c delay=5", 60, stream=True))
        assert await raw.head() == 200
        body, killed = b"", None
        async for part in raw.parts():
            body += part
            if not killed and said(body).count("x") == 5:
                killed = door.node.gateway()
                door.node.kill(told=told)
                asyncio.get_running_loop().call_later(0.1, door.node.restart)
        assert said(body) == "x b c delay=5 " * 15
        assert events(body)[-1] == "[DONE]"
    assert killed is not None
    (first,), (again,) = killed.seen, door.node.gateway().seen
    assert first.from_seq == 0 and again.from_seq >= 17
    assert again.retry_token == first.retry_token and again.fingerprint == first.fingerprint


async def test_a_gateway_lost_again_and_again() -> None:
    async with served() as door, await Raw.open(door.port) as raw:
        raw.post(CHAT, chat("x delay=5", 50, stream=True))
        assert await raw.head() == 200
        body, kills = b"", 0
        async for part in raw.parts():
            body += part
            if kills < 5:
                kills += 1
                door.node.kill()
                door.node.restart()
        assert said(body) == "x delay=5 " * 25 and kills == 5


async def test_a_unary_answer_survives_its_gateway(door: Served) -> None:
    asking = asyncio.create_task(call(door.port, "POST", CHAT, chat("a delay=20", 10)))
    old = door.node.gateway()
    while not old.running:  # noqa: ASYNC110 (looked at in every turn: it must not end before)
        await asyncio.sleep(0)
    door.node.kill()
    door.node.restart()
    status, _, answer = await asking
    assert (status, answer["choices"][0]["message"]["content"]) == (200, "a delay=20 " * 5)
    assert old.seen[-1].retry_token == door.node.gateway().seen[-1].retry_token


async def test_no_gateway_at_all() -> None:
    node = InProcess()
    options = DoorOptions(port=0, gateway_wait_s=0.3)
    async with served(node, options) as door:
        async with await Raw.open(door.port) as raw:
            raw.post(CHAT, chat("hold", stream=True))
            await first_text(raw)
            node.kill()
            last = events(await raw.body())[-1]
            assert last["error"]["code"] == "unavailable"
        for method, path, body in (("POST", CHAT, chat("a")), ("GET", "/v1/models", None)):
            status, headers, answer = await call(door.port, method, path, body)
            assert (status, answer["error"]["code"]) == (503, "unavailable")
            assert int(headers["retry-after"]) >= 1
    async with served(node, DoorOptions(port=0, gateway_wait_s=PATIENCE_S)) as door:
        asking = asyncio.create_task(call(door.port, "POST", CHAT, chat("a")))
        await until(lambda: len(door.server.lobby) == 1)
        node.restart()
        assert (await asking)[0] == 200
        node.kill()
        asking = asyncio.create_task(call(door.port, "POST", CHAT, chat("a")))  # now it is known
        await until(lambda: door.admission.running == 1)
        node.restart()
        assert (await asking)[0] == 200


async def test_tenants_keep_to_their_partition() -> None:
    node = InProcess(partitions=4)
    async with served(node, DoorOptions(port=0, gateways=4)) as door:
        for tenant in ("acme", "bolt", "core", "dune", "edge"):
            for _ in range(3):
                await call(
                    door.port, "POST", CHAT, chat("a"),
                    authorization=f"Bearer tether-{tenant}-secret",
                )  # fmt: skip
        tenants = [{infer.credential for infer in node.gateway(n).seen} for n in range(4)]
        assert sum(map(len, tenants)) == 5 == len(set().union(*tenants))
        assert sum(1 for seen in tenants if seen) > 1


async def test_too_many_at_once() -> None:
    async with served(options=DoorOptions(port=0, max_requests=2)) as door:
        async with await Raw.open(door.port) as one, await Raw.open(door.port) as two:
            one.post(CHAT, chat("hold", stream=True))
            two.post(CHAT, chat("hold", stream=True))
            await first_text(one)
            await first_text(two)
            status, headers, answer = await call(door.port, "POST", CHAT, chat("a"))
            assert (status, answer["error"]["code"]) == (503, "overloaded")
            assert headers["retry-after"] == "1"
        await until(lambda: door.admission.running == 0)
        assert (await call(door.port, "POST", CHAT, chat("a")))[0] == 200


async def test_too_many_connections() -> None:
    options = DoorOptions(port=0, max_connections=1)
    async with served(options=options) as door, await Raw.open(door.port) as one:
        one.write(request("GET", "/v1/models"))
        assert (await one.answer())[0] == 200
        async with await Raw.open(door.port) as two:
            status, answer = await two.answer()
            assert (status, answer["error"]["code"]) == (503, "overloaded")
            assert await two.closed()


async def test_a_slow_reader_stops_the_producer(door: Served) -> None:
    gateway = door.node.gateway()
    produced: list[int] = []
    infer = gateway.infer

    async def counting(msg: object) -> AsyncIterator[object]:
        async for item in infer(msg):  # type: ignore[arg-type]
            produced.append(item.seq)
            yield item

    gateway.infer = counting  # type: ignore[method-assign, assignment]
    total = 20_000
    async with await Raw.open(door.port, limit=1024) as raw:
        raw.post(CHAT, chat("x" * 2000, total, stream=True))
        await raw.head()
        settled = -1
        while settled != len(produced):
            settled = len(produced)
            await asyncio.sleep(0.3)  # what isn't produced any more has no event
        assert 0 < settled < total / 2
        assert said(await raw.body()).count("x" * 2000) == total


async def test_a_reader_that_stops_keeps_its_place_no_longer_than_its_deadline(
    door: Served,
) -> None:
    async with await Raw.open(door.port, limit=1024) as raw:
        raw.post(CHAT, chat("x" * 2000, 20_000, stream=True), x_request_timeout_s="0.5")
        await raw.head()  # and not a byte more
        await until(lambda: door.node.gateway().running == 0)
        await until(lambda: door.admission.running == 0)


async def test_a_connection_nobody_reads_from_is_cut(
    door: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "STUCK_S", 0.1)
    async with await Raw.open(door.port, limit=1024) as raw:
        raw.post(CHAT, chat("x" * 2000, 20_000, stream=True), x_request_timeout_s="0.5")
        await raw.head()
        await until(lambda: not connections(door))


async def test_draining(door: Served) -> None:
    async with await Raw.open(door.port) as running, await Raw.open(door.port) as idle:
        idle.write(request("GET", "/healthz"))
        assert (await idle.answer())[0] == 200
        running.post(CHAT, chat("a b hold", 60, stream=True))
        assert await running.head() == 200
        stopping = asyncio.create_task(door.server.stop(NEVER_S))
        await until(lambda: door.admission.draining)
        for again in (None, idle):  # a new connection, and one that was open
            async with again or await Raw.open(door.port) as raw:
                raw.post(CHAT, chat("late"))
                status, answer = await raw.answer()
                assert (status, answer["error"]["code"]) == (503, "draining")
                assert raw.headers["connection"] == "close" and int(raw.headers["retry-after"])
                assert await raw.closed()
        assert (await call(door.port, "GET", "/readyz"))[0] == 503
        door.node.gateway().release.set()
        body = await running.body()
        assert said(body) == "a b hold " * 20 and events(body)[-1] == "[DONE]"
        await stopping
        with pytest.raises(ConnectionError):
            await Raw.open(door.port)


async def test_draining_has_a_deadline(door: Served) -> None:
    async with await Raw.open(door.port) as stream, await Raw.open(door.port) as whole:
        stream.post(CHAT, chat("hold", stream=True))
        whole.post(CHAT, chat("hold"))
        await first_text(stream)
        await door.server.stop(1.5)
        last = events(await stream.body())[-1]
        assert last["error"]["code"] == "draining"
        assert (await whole.answer())[0] == 503
    await until(lambda: door.node.gateway().running == 0)
