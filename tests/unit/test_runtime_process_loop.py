"""Running: control comes back when a handler says so, also while something is on its way out."""

import asyncio
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from thespian.actors import ActorExitRequest
from thespian.system.transport import Thespian__Run_Expired, Thespian__Run_Terminated

from supervision.runtime.process_loop import ProcessLoop


class Outgoing:
    """A hub as `ProcessLoop` sees it: something is on its way for a number of looks."""

    def __init__(self, looks: int) -> None:
        self.looks = looks

    @property
    def pending(self) -> bool:
        self.looks -= 1
        return self.looks >= 0


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.mark.timeout(60)
def test_an_exit_with_messages_waiting_drains_and_keeps_them(
    loop: asyncio.AbstractEventLoop,
) -> None:
    running = ProcessLoop(loop, Outgoing(3), "here")  # type: ignore[arg-type]
    for message in ("exit", "later", "last"):
        running.deliver("somebody", message)
    seen: list[Any] = []

    def handler(envelope: Any) -> bool:
        seen.append(envelope.message)
        running.abort_run(drain=True)
        return False

    assert isinstance(running.run(handler), Thespian__Run_Terminated)
    assert seen == ["exit"]
    rest: list[Any] = []

    def keep(envelope: Any) -> bool:
        rest.append(envelope.message)
        return len(rest) < 2

    running.run(keep)
    assert rest == ["later", "last"]


class Finishing:
    """An actor as `ProcessLoop` sees it: it finishes when it is told that it may."""

    def __init__(self, running: ProcessLoop) -> None:
        self.then: Callable[[], None] | None = None
        running.exit_gate = self.gate

    def gate(self, then: Callable[[], None]) -> None:
        assert self.then is None, "the actor was asked twice"
        self.then = then


MOMENT = timedelta(milliseconds=20)


@pytest.mark.timeout(60)
def test_whoever_asks_an_actor_to_exit_waits_until_it_has_finished(
    loop: asyncio.AbstractEventLoop,
) -> None:
    running = ProcessLoop(loop, Outgoing(0), "here")  # type: ignore[arg-type]
    actor = Finishing(running)
    seen: list[Any] = []

    def handler(envelope: Any) -> bool:
        seen.append(envelope.message)
        return True

    for _ in range(3):  # SIGTERM, a parent, the Admin
        running.deliver("somebody", ActorExitRequest())
    assert isinstance(running.run(handler, MOMENT), Thespian__Run_Expired)
    assert seen == []
    assert actor.then is not None
    loop.call_soon(actor.then)
    running.run(handler, MOMENT)
    assert [type(message) for message in seen] == [ActorExitRequest] * 3


@pytest.mark.timeout(60)
@pytest.mark.parametrize("while_it_runs", [False, True])
def test_an_orphan_runs_on_until_it_has_finished(
    loop: asyncio.AbstractEventLoop, while_it_runs: bool
) -> None:
    """Also when Thespian stops and begins again meanwhile, and hears of an exit."""
    running = ProcessLoop(loop, Outgoing(0), "here")  # type: ignore[arg-type]
    actor = Finishing(running)
    running.orphaned = True
    running.leave(lambda: None)
    running.deliver("somebody", ActorExitRequest())
    assert isinstance(running.run(lambda _: True, MOMENT), Thespian__Run_Expired)
    assert actor.then is not None
    if while_it_runs:
        loop.call_soon(actor.then)
    else:
        actor.then()
    assert isinstance(running.run(lambda _: True, MOMENT), Thespian__Run_Terminated)
