"""Headers, ids, errors, bodies, sockets: the small parts of the front door."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervision.errors import (
    BadRequest,
    BodyTooLarge,
    Cancelled,
    DeadlineExceeded,
    Draining,
    Internal,
    Overloaded,
    RateLimited,
    TetherError,
    Unauthenticated,
    Unfamiliar,
)
from supervision.tree_view import index_of
from tether.http import errors
from tether.http.admission import DoorAdmission
from tether.http.body import read_body
from tether.http.caller import read_caller, tenant_of
from tether.http.cancellation import GRACE_S, Cancellation
from tether.http.identity import clean_request_id, continue_trace, new_id, new_traceparent
from tether.http.listener import PortTaken, listen
from tether.http.options import DoorOptions

OPTIONS = DoorOptions(default_deadline_s=120, max_deadline_s=600)
AUTH = {b"authorization": b"Bearer tether-acme-k1"}


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ({b"authorization": b"Bearer abc"}, "abc"),
        ({b"authorization": b"bearer   abc "}, "abc"),
        ({b"x-api-key": b"abc"}, "abc"),
        ({b"x-api-key": b"other", b"authorization": b"Bearer abc"}, "abc"),
    ],
)
def test_keys_come_from_either_header(headers: dict[bytes, bytes], key: str) -> None:
    assert read_caller(headers, OPTIONS).credential == key


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {b"authorization": b"Basic abc"},
        {b"authorization": b"Bearer"},
        {b"authorization": b"Bearer "},
        {b"authorization": b"Bearer " + b"x" * 513},
        {b"authorization": b"Bearer \xff\xfe"},
        {b"x-api-key": b" "},
    ],
)
def test_what_is_no_key_is_refused(headers: dict[bytes, bytes]) -> None:
    with pytest.raises(Unauthenticated):
        read_caller(headers, OPTIONS)


def test_deadline_header() -> None:
    assert read_caller(AUTH, OPTIONS).deadline_s == 120
    assert read_caller({**AUTH, b"x-request-timeout-s": b"2.5"}, OPTIONS).deadline_s == 2.5
    assert read_caller({**AUTH, b"x-request-timeout-s": b"1e9"}, OPTIONS).deadline_s == 600
    for bad in (b"0", b"-1", b"nan", b"inf", b"soon", b""):
        with pytest.raises(BadRequest) as caught:
            read_caller({**AUTH, b"x-request-timeout-s": bad}, OPTIONS)
        assert caught.value.param == "x-request-timeout-s"


def test_idempotency_key() -> None:
    assert read_caller(AUTH, OPTIONS).retry_token == ""
    assert read_caller({**AUTH, b"idempotency-key": b"k 1"}, OPTIONS).retry_token == "k 1"
    for bad in (b"x" * 256, b"\xff", b"a\tb"):
        with pytest.raises(BadRequest) as caught:
            read_caller({**AUTH, b"idempotency-key": bad}, OPTIONS)
        assert caught.value.param == "Idempotency-Key"


@given(st.from_regex(r"\A[a-z0-9]{1,10}(-[a-z0-9]{1,5})?\Z"), st.text("ab-_", min_size=1))
def test_all_keys_of_a_tenant_have_one_partition(tenant: str, random: str) -> None:
    one, other = tenant_of(f"tether-{tenant}-{random}"), tenant_of(f"tether-{tenant}-zzz")
    assert one == other == tenant.split("-")[0]
    assert 0 <= index_of(one, 7) < 7


def test_partition_is_stable_between_releases() -> None:
    assert [index_of(name, 4) for name in ("acme", "bolt", "")] == [2, 3, 0]
    assert tenant_of("sk-123-x") == tenant_of("") == ""


def test_ids_are_ordered_in_time_and_differ() -> None:
    early, late = new_id(lambda: 1.0), new_id(lambda: 1.5)
    assert len(early) == 32 and early < late
    assert len({new_id() for _ in range(1000)}) == 1000


def test_request_ids_are_plain() -> None:
    assert clean_request_id(b"req-1_a.b:c/d") == "req-1_a.b:c/d"
    for bad in (b"", b"a b", b"x" * 129, b"a\r\nset-cookie: b", "é".encode()):
        assert clean_request_id(bad) is None


def test_traceparent_continues_a_valid_one() -> None:
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    ours = continue_trace(f"00-{trace}-{parent}-01".encode())
    assert ours is not None
    version, same, span, flags = ours.split("-")
    assert (version, same, flags) == ("00", trace, "01") and span != parent and len(span) == 16
    assert continue_trace(f"cc-{trace}-{parent}-01-later".encode()) is not None
    for bad in (
        f"ff-{trace}-{parent}-01",
        f"00-{trace}-{parent}-01-more",
        f"00-{'0' * 32}-{parent}-01",
        f"00-{trace}-{'0' * 16}-01",
        f"00-{trace.upper()}-{parent}-01",
        "nonsense",
    ):
        assert continue_trace(bad.encode()) is None
    assert continue_trace(new_traceparent("1" * 32).encode()) is not None


SHOWN = {"supervision.errors", "actors.errors", "tether.http.errors"}


def test_every_error_has_openais_shape() -> None:
    pending: list[type[TetherError]] = [TetherError]
    while pending:
        cls = pending.pop()
        # Those from elsewhere, such as a fault of a replica, are shown as their base.
        pending.extend(sub for sub in cls.__subclasses__() if sub.__module__ in SHOWN)
        if cls is Unfamiliar:
            continue  # as the class that it stands for, see test_runtime_codec
        status, headers, body = errors.answer(cls("what", param="p"))
        assert status == cls.status
        error = json.loads(body)["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        assert (error["message"], error["param"], error["code"]) == ("what", "p", cls.code)
        assert (b"retry-after" in dict(headers)) == (status in (429, 503))
        assert dict(headers)[b"content-length"] == b"%d" % len(body)


def test_error_headers() -> None:
    assert dict(errors.answer(RateLimited("x", retry_after_s=1.2))[1])[b"retry-after"] == b"2"
    assert dict(errors.answer(Overloaded("x", retry_after_s=0.01))[1])[b"retry-after"] == b"1"
    assert dict(errors.answer(Draining("x"))[1])[b"connection"] == b"close"
    assert b"connection" not in dict(errors.answer(Overloaded("x"))[1])
    assert dict(errors.answer(Unauthenticated("x"))[1])[b"www-authenticate"] == b"Bearer"
    assert dict(errors.answer(Internal("x"))[1])[b"x-should-retry"] == b"false"
    assert b"\xef" not in errors.body(BadRequest("bad \ud800 text"))


def receiver(*messages: dict[str, Any]) -> Any:
    left = list(messages)

    async def receive() -> dict[str, Any]:
        return left.pop(0)

    return receive


def part(body: bytes, more: bool) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


async def test_body_is_put_together() -> None:
    receive = receiver(part(b"ab", True), part(b"", True), part(b"cd", False))
    assert await read_body(receive, {}, 4) == b"abcd"


async def test_body_above_the_limit() -> None:
    with pytest.raises(BodyTooLarge):
        await read_body(receiver(part(b"abcde", False)), {}, 4)
    with pytest.raises(BodyTooLarge):  # chunked: reads on for as much again
        await read_body(receiver(*[part(b"ab", True)] * 4, part(b"ab", False)), {}, 4)
    with pytest.raises(BodyTooLarge):  # declared: not even read
        await read_body(receiver(), {b"content-length": b"9"}, 4)


async def test_body_of_a_client_that_leaves() -> None:
    with pytest.raises(Cancelled):
        await read_body(receiver(part(b"ab", True), {"type": "http.disconnect"}), {}, 4)


async def test_compressed_body_is_refused() -> None:
    with pytest.raises(BadRequest) as caught:
        await read_body(receiver(), {b"content-encoding": b"gzip"}, 4)
    assert caught.value.param == "content-encoding"


async def never() -> Any:
    await asyncio.Event().wait()


async def wait_forever(receive: Any, deadline_s: float) -> None:
    with Cancellation(receive, deadline_s, 5.0) as line:
        line.listening()
        await never()


async def test_lifeline_ends_at_the_deadline() -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(DeadlineExceeded):
        await wait_forever(never, 0.05 - GRACE_S)
    assert loop.time() - began == pytest.approx(0.05)
    await asyncio.sleep(0)  # nothing of the cancellation is left over


async def test_lifeline_ends_when_the_client_leaves() -> None:
    with pytest.raises(Cancelled):
        await wait_forever(receiver({"type": "http.disconnect"}), 30.0)


async def test_lifeline_ends_a_slow_body() -> None:
    with pytest.raises(errors.BodyTooSlow), Cancellation(never, 30.0, 0.01):
        await never()


async def test_lifeline_leaves_other_cancellations_alone() -> None:
    task = asyncio.create_task(wait_forever(never, 30.0))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_admission_counts_and_drains() -> None:
    admission = DoorAdmission(2)
    admission.enter()
    admission.enter()
    with pytest.raises(Overloaded):
        admission.enter()
    admission.leave()
    admission.enter()
    assert not await admission.drain(0.01)
    with pytest.raises(Draining):
        admission.enter()
    admission.leave()
    admission.leave()
    assert await admission.drain(1.0)


def test_occupied_port_is_an_error() -> None:
    with listen("127.0.0.1", 0, share=False) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortTaken) as caught:
            listen("127.0.0.1", port, share=False)
        assert str(port) in caught.value.message and "http.port" in caught.value.message


def test_doors_may_share_a_port() -> None:
    with (
        listen("127.0.0.1", 0, share=True) as one,
        listen("127.0.0.1", one.getsockname()[1], share=True) as other,
    ):
        assert other.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)


@pytest.mark.parametrize(
    "wrong",
    [
        {"port": 70_000},
        {"max_requests": 0},
        {"default_deadline_s": 700.0},
        {"gateway_wait_s": 0.0},
        {"cors_origins": ("example.org",)},
        {"cors_origins": ("https://example.org/path",)},
    ],
)
def test_options_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        DoorOptions(**wrong)
