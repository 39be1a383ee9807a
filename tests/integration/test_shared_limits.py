"""Limits that several gateways share, over a real Valkey: exact while it is there, a part each
while it is away, and never full again because somebody forgot."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from actors.gateway.admission import TenantLimits
from actors.gateway.shared_limits import PERMITS_S, WAIT_S
from actors.stores.embedded_valkey import EmbeddedValkey
from actors.stores.limit_store import LimitStoreOptions
from tests.support.limit_gateway import LimitGateway
from tests.support.waiting import PATIENCE_S, until

SLACK_S = 0.5  # of a machine that has much else to do
FEW = TenantLimits(requests_per_minute=300)


@pytest_asyncio.fixture
async def valkey() -> AsyncIterator[EmbeddedValkey]:
    folder = Path(tempfile.mkdtemp(prefix="tv-"))
    folder.chmod(0o711)
    server = EmbeddedValkey(folder / "valkey", folder / "s")
    await server.start()
    yield server
    if server.pid is not None:
        os.kill(server.pid, signal.SIGCONT)
    await server.stop()
    shutil.rmtree(folder)


def store_of(server: EmbeddedValkey) -> LimitStoreOptions:
    return LimitStoreOptions(url=server.url, password_file=str(server.password_file))


@contextlib.asynccontextmanager
async def gateways(store: LimitStoreOptions, count: int = 3) -> AsyncIterator[list[LimitGateway]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(LimitGateway(store, count)) for _ in range(count)]


async def taken(gates: list[LimitGateway], limits: TenantLimits, tokens: int = 1) -> int:
    """How many requests are let in until every gateway refuses one."""
    count, left = 0, list(gates)
    while left:
        for gate in list(left):
            if await gate.admit("acme", limits, tokens):
                gate.leave("acme")
                count += 1
            else:
                left.remove(gate)
    return count


async def offered(
    gate: LimitGateway, limits: TenantLimits, clients: int, over: Callable[[], bool]
) -> int:
    """Clients that ask again at once, at one gateway; how many requests were let in."""

    async def client() -> int:
        count = 0
        while not over():
            if await gate.admit("acme", limits):
                gate.leave("acme")
                count += 1
            await asyncio.sleep(0.002)
        return count

    return sum(await asyncio.gather(*(client() for _ in range(clients))))


async def let_in(gate: LimitGateway, limits: TenantLimits, tokens: int = 1) -> None:
    """Returns when a request is: others say when they give back, and not to us."""
    async with asyncio.timeout(PERMITS_S + PATIENCE_S):
        while not await gate.admit("acme", limits, tokens):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("per_minute", [120, 3000])
async def test_three_gateways_let_in_what_one_would(
    valkey: EmbeddedValkey, per_minute: int
) -> None:
    """Far more than its limit is offered at each of three; accepted is burst + rate · time."""
    limits, loop = TenantLimits(requests_per_minute=per_minute), asyncio.get_running_loop()
    async with gateways(store_of(valkey)) as gates:
        began = loop.time()
        end = began + 5.0
        found = await asyncio.gather(
            *(offered(gate, limits, 8, lambda: loop.time() >= end) for gate in gates)
        )
        took_s = loop.time() - began
        assert not any(gate.local for gate in gates)
    most = per_minute + per_minute / 60 * took_s
    assert 0.98 * most - 1 <= sum(found) <= most + 1
    assert min(found) > 0


async def test_what_one_gateway_overdraws_all_of_them_pay(valkey: EmbeddedValkey) -> None:
    limits = TenantLimits(tokens_per_minute=2000)
    async with gateways(store_of(valkey)) as gates:
        assert await gates[0].admit("acme", limits, 300)
        gates[0].leave("acme", 300 - 7619)

        async def refused() -> bool:
            return not await gates[1].admit("acme", limits, 300)

        async with asyncio.timeout(PATIENCE_S):
            while not await refused():
                gates[1].leave("acme", 300)
                await asyncio.sleep(0.01)
        state = gates[1].tenants.meter("acme")
        assert state is not None
        left = state.state(gates[1].loop.time())
        assert left is not None and left.remaining_tokens == 0
        assert left.reset_tokens_s == pytest.approx(7619 / 2000 * 60, rel=0.1)


async def test_what_is_not_used_comes_back_for_all(valkey: EmbeddedValkey) -> None:
    limits = TenantLimits(tokens_per_minute=2000)
    async with gateways(store_of(valkey)) as gates:
        assert await gates[0].admit("acme", limits, 1900)
        assert not await gates[1].admit("acme", limits, 1900)
        gates[0].leave("acme", 1900)
        await let_in(gates[1], limits, 1900)


async def test_concurrency_is_one_for_all_gateways(valkey: EmbeddedValkey) -> None:
    limits = TenantLimits(concurrency=7)
    async with gateways(store_of(valkey)) as gates:
        running = [gate for gate in gates * 5 if await gate.admit("acme", limits)]
        assert len(running) == 7
        running.pop(0).leave("acme")
        await let_in(gates[2], limits)
        assert not await gates[1].admit("acme", limits)


async def test_permits_of_a_dead_gateway_come_back_within_seconds(valkey: EmbeddedValkey) -> None:
    limits, store = TenantLimits(concurrency=3), store_of(valkey)
    async with gateways(store, 2) as gates:
        dead = LimitGateway(store, 3)
        await dead.limits.open()
        for _ in range(3):
            assert await dead.admit("acme", limits)
        await asyncio.sleep(1.2 * PERMITS_S)  # it lives, and shows that
        assert not await gates[0].admit("acme", limits)
        await dead.die()
        await let_in(gates[0], limits)


async def test_a_killed_store_leaves_each_gateway_its_part_and_none_a_full_one(
    valkey: EmbeddedValkey,
) -> None:
    async with gateways(store_of(valkey)) as gates:
        first = await taken(gates, FEW)
        assert first == pytest.approx(300, abs=12)
        assert valkey.pid is not None
        os.kill(valkey.pid, signal.SIGKILL)
        await valkey.ended()
        began = gates[0].loop.time()
        while gates[0].loop.time() < began + 3.0:
            first += await taken(gates, FEW)
            await asyncio.sleep(0.02)
        assert all(gate.local for gate in gates)
        spent_s = gates[0].loop.time() - began
        await valkey.stop()
        await valkey.start()
        await until(lambda: not any(gate.local for gate in gates))
        first += await taken(gates, FEW)
        back_s = gates[0].loop.time() - began
        assert first <= 300 + 5 * back_s + 15
        assert first >= 300 + 5 * spent_s - 20


async def test_permits_that_ran_out_meanwhile_are_held_no_more(valkey: EmbeddedValkey) -> None:
    """The store was away and begins without data; what ran is counted again, what was only held
    isn't."""
    limits = TenantLimits(concurrency=64)
    async with gateways(store_of(valkey), 2) as [one, other]:
        for _ in range(3):
            assert await one.admit("acme", limits)
        one.leave("acme")
        assert valkey.pid is not None
        os.kill(valkey.pid, signal.SIGKILL)
        await valkey.ended()
        for gate in (one, other):
            assert await gate.admit("somebody", FEW)
        await until(lambda: one.local and other.local)
        await valkey.stop()
        shutil.rmtree(valkey.data)
        await valkey.start()
        await until(lambda: not one.local and not other.local)
        meter = one.tenants.meter("acme")
        assert meter is not None
        await until(lambda: not meter.local and meter.permits.held == 2)
        count = 0
        while await other.admit("acme", limits):
            count += 1
        assert count == 62
        assert not await one.admit("acme", limits)


async def test_a_store_that_hangs_costs_one_short_wait(valkey: EmbeddedValkey) -> None:
    async with gateways(store_of(valkey), 1) as [gate]:
        assert await gate.admit("acme", FEW)
        gate.longest_s = 0.0
        assert valkey.pid is not None
        os.kill(valkey.pid, signal.SIGSTOP)
        for number in range(50):
            await gate.admit(f"t{number}", FEW)
        assert gate.local and gate.longest_s < WAIT_S + SLACK_S
        gate.longest_s = 0.0
        for number in range(50):
            assert await gate.admit(f"u{number}", FEW)
        assert gate.longest_s < WAIT_S
        os.kill(valkey.pid, signal.SIGCONT)
        await until(lambda: not gate.local)
        assert await gate.admit("acme", FEW)


async def test_a_store_that_loses_all_gives_nobody_a_full_bucket(valkey: EmbeddedValkey) -> None:
    async with gateways(store_of(valkey)) as gates:
        assert await taken(gates, FEW) == pytest.approx(300, abs=12)
        for gate in gates:
            assert await gate.admit("other", FEW)
        await asyncio.sleep(0)
        await valkey.ask("FLUSHALL", 5.0)
        await valkey.ask("SCRIPT FLUSH", 5.0)
        began = gates[0].loop.time()
        again = await taken(gates, FEW)
        assert again <= 15 + 5 * (gates[0].loop.time() - began + 2.5)
        fresh = 0
        while await gates[0].admit("never-seen", FEW):
            fresh += 1
        assert 1 <= fresh <= 30 + 5 * (gates[0].loop.time() - began + 1) + 15


@pytest.mark.parametrize(
    "words", [b"+OK\r\n", b"HTTP/1.1 200 OK\r\n\r\n", b"\x00\xff\x00", b"*7\r\n:1\r\n", b""]
)
async def test_a_store_that_talks_nonsense_is_away(tmp_path: Path, words: bytes) -> None:
    folder = Path(tempfile.mkdtemp(prefix="tv-"))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while words and await reader.read(65536):
                writer.write(words)
                await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(serve, folder / "s")
    async with gateways(LimitStoreOptions(url=f"unix://{folder}/s"), 2) as gates:
        for gate in gates:
            assert await gate.admit("acme", FEW)
            assert gate.local and gate.longest_s < WAIT_S + SLACK_S
    server.close()
    shutil.rmtree(folder)


async def test_shares_go_back_when_they_are_idle_and_at_the_end(valkey: EmbeddedValkey) -> None:
    limits = TenantLimits(requests_per_minute=6000)

    async def left() -> float:
        said = (await valkey.ask("EVAL " + _LEFT, 5.0)).decode()
        return float(said or "nan")

    async with gateways(store_of(valkey), 1) as [gate]:
        assert await gate.admit("acme", limits)
        gate.leave("acme")
        meter = gate.tenants.meter("acme")
        assert meter is not None and meter.requests is not None
        assert meter.requests.balance > 0
        await until(lambda: meter.requests is not None and not meter.requests.balance)
        assert await gate.admit("acme", limits)
        assert meter.requests.balance > 0
    assert await left() > 5998


_LEFT = "\"return redis.call('HGET', KEYS[1], 'rl')\" 1 tether:tether:limits:acme"


async def test_forgotten_meters_keep_what_was_used(valkey: EmbeddedValkey) -> None:
    """More tenants than a gateway remembers: the first comes back to what it has left."""
    async with LimitGateway(store_of(valkey), 1, tenants=5) as gate:
        assert await taken([gate], FEW) == pytest.approx(300, abs=10)
        for number in range(20):
            assert await gate.admit(f"t{number}", FEW)
            gate.leave(f"t{number}")
        assert len(gate.tenants) == 5 and gate.tenants.meter("acme") is None
        assert await taken([gate], FEW) < 50
