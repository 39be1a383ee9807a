"""What operators ask of an actor: its standing, its figures, its logs, a pause. Real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
import structlog

from supervision.contracts import Contract
from supervision.contracts.operating import (
    ActorState,
    Inspect,
    Inspected,
    LogLevel,
    Resume,
    SetLogLevel,
    ShowStats,
    Standing,
    Stats,
    Suspend,
)
from supervision.errors import BadRequest, Forbidden, NoAnswer, ProtocolError
from supervision.metrics import child_start_seconds
from supervision.runtime import Address, metrics, on
from supervision.runtime.connections import Connections
from supervision.runtime.dispatch import Dispatch
from supervision.runtime.handlers import handlers_of
from supervision.runtime.introspection import Introspection
from supervision.runtime.sockets import fresh_name
from supervision.security.audience import OPERATOR, PLACER
from supervision.telemetry import logs
from tests.support.runtime_actors import RtCount, RtPing, RtPong, RtSync


class Slow:
    """Answers pings when it is let, and streams without end."""

    def __init__(self, hub: Connections) -> None:
        self.let = asyncio.Event()
        self.served = 0
        self.serving = Dispatch(hub, handlers_of(self), 8, "Slow")
        self.operating = Introspection(self, hub, self.serving, 8)
        self.serving.begin()

    def described(self) -> dict[str, object]:
        return {"served": self.served}

    def background_names(self) -> list[str]:
        return ["sweep", "sweep"]

    @on(RtPing)
    async def ping(self, msg: RtPing, sender: Address) -> RtPong:
        self.served += 1
        await self.let.wait()
        return RtPong(number=msg.number)

    @on(RtCount)
    async def count(self, msg: RtCount, sender: Address) -> AsyncIterator[RtPong]:
        while True:
            yield RtPong(number=1)

    @on(Inspect, ShowStats, SetLogLevel, Suspend, Resume, of=OPERATOR | PLACER)
    def operated(self, msg: Contract, sender: Address) -> Contract:
        return self.operating.answer(msg, sender)


class Pair:
    def __init__(self, slow: Slow, there: Connections, here: Connections) -> None:
        self.slow, self.there, self.here = slow, there, here

    async def ask(self, contract: Contract, timeout: float = 30.0) -> Contract:
        answer: Contract = await self.here.ask(self.there.address, contract, timeout)
        return answer

    async def inspected(self) -> Inspected:
        answer = await self.ask(Inspect())
        assert isinstance(answer, Inspected)
        return answer


@pytest_asyncio.fixture
async def pair(folder: Path) -> AsyncIterator[Pair]:
    hubs = [
        Connections(asyncio.get_running_loop(), str(folder), Address("n1", fresh_name()))
        for _ in "ab"
    ]
    for hub in hubs:
        await hub.start()
    yield Pair(Slow(hubs[0]), *hubs)
    for hub in hubs:
        hub.close()
    await asyncio.sleep(0)


async def test_an_actor_says_what_it_works_on(pair: Pair) -> None:
    asked = [asyncio.ensure_future(pair.ask(RtPing(number=n))) for n in range(3)]
    stream = pair.here.stream(pair.there.address, RtCount(items=0), 4)
    assert isinstance(await anext(stream), RtPong)
    seen = await pair.inspected()
    assert seen.state is ActorState.RUNNING
    assert dict(seen.handlers) == {"ping": 3, "count": 1}
    assert seen.max_handlers == 8
    assert dict(seen.background) == {"sweep": 2}
    assert dict(seen.notes) == {"served": "3"}
    assert {"RtPing", "RtCount", "Inspect", "Suspend"} <= set(seen.answers)
    assert seen.memory_bytes > 1 << 20
    assert seen.cpu_s > 0
    (peer,) = seen.peers
    assert (peer.address, peer.state) == (str(pair.here.address), "connected")
    assert peer.serving == 4
    pair.slow.let.set()
    assert {answer.number for answer in await asyncio.gather(*asked)} == {0, 1, 2}  # type: ignore[attr-defined]
    stream.close()


class Doubles:
    """A part of an actor."""

    @on(RtSync)
    def double(self, msg: RtSync, sender: Address) -> RtPong:
        return RtPong(number=2 * msg.number)


async def test_a_part_answers_for_its_actor(pair: Pair) -> None:
    with pytest.raises(ProtocolError, match="RtSync"):
        await pair.ask(RtSync(number=4))
    pair.slow.serving.add(Doubles())
    assert await pair.ask(RtSync(number=4)) == RtPong(number=8)
    assert "RtSync" in (await pair.inspected()).answers
    with pytest.raises(TypeError, match=r"Doubles answers RtSync, which Doubles\.double of Slow"):
        pair.slow.serving.add(Doubles())


async def test_a_suspended_actor_keeps_what_comes_for_later(pair: Pair) -> None:
    pair.slow.let.set()
    assert await pair.ask(Suspend()) == Standing(state="suspended")
    assert await pair.ask(Suspend()) == Standing(state="suspended")
    waits = asyncio.ensure_future(pair.ask(RtPing(number=7)))
    with pytest.raises(NoAnswer):
        await pair.ask(RtPing(number=8), timeout=0.2)  # it is taken back, and never served
    seen = await pair.inspected()
    assert (seen.state, seen.held, dict(seen.handlers)) == ("suspended", 1, {})
    assert not waits.done()
    assert pair.slow.served == 0
    assert await pair.ask(Resume()) == Standing(state=ActorState.RUNNING)
    assert await waits == RtPong(number=7)
    assert pair.slow.served == 1


async def test_who_has_gone_meanwhile_is_not_served(pair: Pair, folder: Path) -> None:
    await pair.ask(Suspend())
    gone = Connections(asyncio.get_running_loop(), str(folder), Address("n1", fresh_name()))
    await gone.start()
    stream = gone.stream(pair.there.address, RtCount(items=0), 4)
    gone.tell(pair.there.address, RtPing(number=1))
    while (await pair.inspected()).held < 2:
        pass
    gone.close()
    stream.close()
    while any(peer.address == str(gone.address) for peer in (await pair.inspected()).peers):
        pass
    pair.slow.let.set()
    await pair.ask(Resume())
    seen = await pair.inspected()
    assert "count" not in dict(seen.handlers)
    assert pair.slow.served == 1, "what was told is still heard"


async def test_figures_are_those_of_the_process(pair: Pair) -> None:
    metrics.tls_left.inc(3)
    child_start_seconds.observe(0.1)
    stats = await pair.ask(ShowStats())
    assert isinstance(stats, Stats)
    found = {figure.name: figure for figure in stats.figures}
    left = found["tether_tls_left_total"]
    assert left.value == metrics.tls_left._value.get()
    assert left.kind == "counter"
    assert not any(name.endswith("_created") for name in found)
    assert found["tether_child_start_seconds_bucket"].kind == "histogram"


async def test_the_level_of_logs_changes_while_it_runs(
    pair: Pair, capfd: pytest.CaptureFixture[str]
) -> None:
    logs.configure("WARNING")
    log = logs.get("test")
    try:
        log.info("unheard")
        answer = await pair.ask(SetLogLevel(level="debug"))
        assert answer == LogLevel(level="DEBUG", before="WARNING")
        log.debug("heard")
        with pytest.raises(BadRequest, match="it is one of DEBUG"):
            await pair.ask(SetLogLevel(level="loud"))
        assert (await pair.inspected()).log_level == "DEBUG"
    finally:
        logs.set_level("INFO")
        structlog.reset_defaults()  # else all later tests would write to what capfd has closed
        for logger in logs._loggers:
            logger.__dict__.pop("bind", None)
    said = capfd.readouterr().err
    assert '"heard"' in said
    assert '"unheard"' not in said


@pytest.mark.parametrize("placer", ["n2", "n3"])
async def test_of_other_nodes_that_may_operate_which_has_placed_the_actor(
    pair: Pair, folder: Path, placer: str
) -> None:
    pair.there.guardian = placer
    other = Connections(asyncio.get_running_loop(), str(folder), Address("n2", fresh_name()))
    await other.start()
    try:
        asked = other.ask(pair.there.address, Suspend(), 30.0)
        if placer == "n2":
            await asked
            assert pair.slow.serving.state is ActorState.SUSPENDED
        else:
            with pytest.raises(Forbidden, match="of the node that has placed it and operators"):
                await asked
            assert pair.slow.serving.state is ActorState.RUNNING
    finally:
        other.close()
        await asyncio.sleep(0)
