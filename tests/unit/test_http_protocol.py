"""Whatever is sent to a front door: it says HTTP, once a request, and keeps within its bounds."""

from __future__ import annotations

import asyncio
import re
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.http_inputs import SEEDS, by_socket, by_wire, one
from tests.support.raw_http import answers

PARTS = (
    b"\r\n", b"\n", b"\r", b" ", b":", b"0", b"\r\n\r\n", b"GET / HTTP/1.1\r\nhost: t\r\n\r\n",
    b"HEAD / HTTP/1.1\r\nhost: t\r\n\r\n", b"content-length: 5\r\n", b"connection: close\r\n",
    b"transfer-encoding: chunked\r\n", b"expect: 100-continue\r\n", b"connection: upgrade\r\n",
    b"upgrade: h2c\r\n", b"0\r\n\r\n", b"x" * 40_000, b"\0", b"\xff", b"/early", b"/stream", b"1.0",
)  # fmt: skip


def changed(random: Random) -> bytes:
    """A seed with some of it cut out, doubled, or replaced by a part."""
    data = bytearray(random.choice(SEEDS))
    for _ in range(random.randrange(6)):
        at, to = sorted(random.randrange(len(data) + 1) for _ in range(2))
        match random.randrange(4):
            case 0:
                data[at : min(to, at + 20)] = b""
            case 1:
                data[at:at] = data[at:to]
            case 2:
                data[at : at + random.randrange(4)] = random.choice(PARTS)
            case _:
                data[at:at] = random.choice(SEEDS)[1:]
    return bytes(data)


def test_seeds() -> None:
    for seed in SEEDS:
        one(seed)


@given(st.integers(0, 2**32))
def test_whatever_is_sent(seed: int) -> None:
    one(changed(Random(seed)))


@given(st.binary(max_size=200))
def test_noise(data: bytes) -> None:
    one(data)


@pytest.mark.parametrize("seed", SEEDS)
def test_by_a_socket_it_says_what_it_says_without_one(seed: bytes) -> None:
    """So what holds for the quick road of the fuzzer holds for the other."""
    pieces = [seed[1:40], seed[40:]]
    with asyncio.Runner() as runner:
        (quick, _), (said, _) = (runner.run(road(pieces)) for road in (by_wire, by_socket))
    assert dated(said) == dated(quick)
    assert answers(said)


def dated(said: bytes) -> bytes:
    return re.sub(rb"(?mi)^date: .*$", b"date", said)
