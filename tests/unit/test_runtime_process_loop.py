"""Running: control comes back when a handler says so, also while something is on its way out."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from thespian.system.transport import Thespian__Run_Terminated

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
