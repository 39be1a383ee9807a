"""When a child is held to hang, or to hold too much, on a virtual clock."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from supervision.contracts import Ping, Pong
from supervision.errors import Draining, NoAnswer, PeerLost
from supervision.liveness import attend, held_bytes
from supervision.runtime import Address
from supervision.spec import ChildSpec

CHILD = Address("n1", "7-x", 0)


class Asker:
    """A supervisor whose asks end as `answer` says."""

    address = Address("n1", "8-y", 0)

    def __init__(self, answer: Callable[[], Any]) -> None:
        self.answer = answer
        self.asked: list[float] = []

    async def ask(self, address: Address, contract: Any, timeout: float) -> Any:
        assert (address, contract) == (CHILD, Ping())
        self.asked.append(asyncio.get_running_loop().time())
        try:
            return await asyncio.wait_for(self.answer(), timeout)
        except TimeoutError:
            raise NoAnswer("no answer") from None


async def fate(answer: Callable[[], Any], seconds: float, **changes: Any) -> tuple[str, float]:
    """What ails a child with probe_s 8 within `seconds`, and when that was seen."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    doom: asyncio.Future[str] = loop.create_future()
    spec = ChildSpec(id="c", start="m:C", **({"probe_s": 8.0} | changes))
    watching = asyncio.create_task(attend(Asker(answer), spec, CHILD, doom.set_result))  # type: ignore[arg-type]
    try:
        return await asyncio.wait_for(doom, seconds), loop.time() - began
    except TimeoutError:
        return "", seconds
    finally:
        watching.cancel()


async def alive() -> Pong:
    return Pong()


async def silent() -> Pong:
    await asyncio.Event().wait()
    raise AssertionError


def raising(error: Exception) -> Callable[[], Any]:
    async def answer() -> Pong:
        raise error

    return answer


async def test_whoever_answers_lives() -> None:
    assert (await fate(alive, 3600))[0] == ""
    assert (await fate(raising(Draining("on its way out")), 3600))[0] == ""


async def test_silence_is_death_after_the_deadline() -> None:
    why, after_s = await fate(silent, 3600)
    assert why == "hung: it has not answered for 8 s"
    assert 8.0 <= after_s <= 10.0


@pytest.mark.parametrize("error", [PeerLost("gone"), NoAnswer("late")])
async def test_an_error_of_ours_is_no_answer(error: Exception) -> None:
    why, after_s = await fate(raising(error), 3600)
    assert why.startswith("hung")
    assert 6.0 <= after_s <= 10.0


async def test_one_answer_within_the_deadline_is_enough() -> None:
    async def slow() -> Pong:
        await asyncio.sleep(7.0)
        return Pong()

    assert (await fate(slow, 3600))[0] == ""


async def test_time_in_which_the_supervisor_slept_does_not_count() -> None:
    loop: Any = asyncio.get_running_loop()

    def stop_for_an_hour() -> None:
        loop._timers.now += 3600.0

    loop.call_later(5.0, stop_for_an_hour)
    why, after_s = await fate(silent, 7200)
    assert why.startswith("hung")
    # not at once when it wakes, for what it asked may be answered in the socket
    assert 3613.0 <= after_s <= 3617.0


async def test_memory_counts_without_a_probe() -> None:
    why, _ = await fate(silent, 10, probe_s=0.0)
    assert why == ""


def test_what_a_process_holds_counts_those_that_it_started() -> None:
    program = (
        "import subprocess, sys; held = b'x' * (64 << 20);"
        "child = subprocess.Popen([sys.executable, '-c', "
        "'held = b\"x\" * (64 << 20); print(1, flush=True); input()'],"
        " stdin=subprocess.PIPE, stdout=subprocess.PIPE);"
        "child.stdout.readline(); print(1, flush=True); input(); child.communicate(b'\\n')"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        held = held_bytes(process.pid)
        process.communicate(b"\n")
    assert 128 << 20 <= held <= 256 << 20
    assert held_bytes(process.pid) == 0
    assert held_bytes(os.getpid()) > 0
