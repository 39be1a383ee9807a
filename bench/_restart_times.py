"""How long a restart takes, from SIGKILL to ready, for `bench/faults.py`."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from bench._fault_node import FaultNode, all_run, back, child_of
from supervision.backoff import Backoff
from supervision.spec import SupervisorOptions

REST_S: Final = 0.3
#: Every kill is the first one after a steady run, which is not waited for (`Backoff`).
STEADY: Final = Backoff(steady_s=REST_S / 2)


async def restart_times(
    node: FaultNode, chosen: Sequence[str], rounds: int, *, spare: bool
) -> dict[str, list[float]]:
    """Milliseconds from SIGKILL to ready, `rounds` for each kind; from a warm spare or spawned."""
    times: dict[str, list[float]] = {}
    for name in chosen:
        subject = msgspec.structs.replace(
            child_of(node.kinds[name], "subject", stand_in=False), backoff=STEADY
        )
        async with node.grown("sut", SupervisorOptions(intensity=10_000, children=(subject,))):
            times[name] = [await _restart_ms(node, spare) for _ in range(rounds)]
    return times


async def _restart_ms(node: FaultNode, spare: bool) -> float:
    was, _ = await node.until(all_run)
    if spare:
        await _warm(was["sut"].pid)
    await asyncio.sleep(REST_S)  # the machine rests, as it mostly does before a fault
    began = time.monotonic()
    os.kill(was["sut/subject"].pid, signal.SIGKILL)
    _, at = await node.until(lambda nodes: back(was, nodes, {"subject": 1}))
    return (at - began) * 1000


async def _warm(supervisor: int) -> None:
    """Returns when that process has a warm spare."""
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children")
    async with asyncio.timeout(60):
        # another process has no event for us
        while not any(  # noqa: ASYNC110
            _named(pid) == "tether-spare" for pid in children.read_text().split()
        ):
            await asyncio.sleep(0.02)


def _named(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""
