"""What is read only to be thrown away: how long, how much, of how many."""

from __future__ import annotations

import asyncio

from supervision.telemetry.bounds import refused
from tests.support.virtual_clock import VirtualClockLoop
from tether.http.lingering import HURRY_S, IDLE_S, MAX_BYTES, MAX_S, Lingering, Remainder


def run(coroutine: object) -> None:
    with asyncio.Runner(loop_factory=VirtualClockLoop) as runner:
        runner.run(coroutine)  # type: ignore[arg-type]


class Over:
    """When a remainder was over."""

    def __init__(self, lingering: Lingering) -> None:
        self.loop = asyncio.get_running_loop()
        self.began = self.loop.time()
        self.after: float | None = None
        self.remainder: Remainder = lingering.begin(self.loop, self.end)

    def end(self) -> None:
        assert self.after is None
        self.after = self.loop.time() - self.began


def test_silence_ends_it_and_so_does_time() -> None:
    async def story() -> None:
        lingering = Lingering()
        silent, slow, done = Over(lingering), Over(lingering), Over(lingering)
        done.remainder.end()
        for _ in range(100):
            slow.remainder.heard(1)
            await asyncio.sleep(1.0)
        assert silent.after == IDLE_S and done.after is None
        assert slow.after == MAX_S and not len(lingering)

    run(story())


def test_bytes_end_it() -> None:
    async def story() -> None:
        lingering = Lingering()
        much = Over(lingering)
        assert much.remainder.heard(MAX_BYTES) == MAX_BYTES and much.after is None
        much.remainder.heard(1)
        assert much.after == 0 and not len(lingering)

    run(story())


def test_the_oldest_makes_room() -> None:
    async def story() -> None:
        counted = refused.labels("door_lingering")
        before = counted._value.get()
        lingering = Lingering(2)
        first, second, third = (Over(lingering) for _ in range(3))
        assert (first.after, second.after, third.after) == (0, None, None)
        assert len(lingering) == 2 and counted._value.get() == before + 1

    run(story())


def test_a_server_that_stops_waits_less() -> None:
    async def story() -> None:
        lingering = Lingering()
        here = Over(lingering)
        await asyncio.sleep(1.0)
        lingering.hurry()
        comes = Over(lingering)
        await asyncio.sleep(1.0)
        assert here.after is not None and abs(here.after - 1.0 - HURRY_S) < 1e-6
        assert comes.after is not None and abs(comes.after - HURRY_S) < 1e-6

    run(story())
