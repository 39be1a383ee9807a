"""How long a restart takes, from SIGKILL to ready, for `bench/faults.py`.

Each kind is killed in turn with an actor that does nothing, its sibling under the same supervisor:
so what the machine does meanwhile counts for both, and their ratio is what the kind costs itself.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

import msgspec

from bench._bare_actor import Bare
from bench._fault_node import FaultNode, all_run, back, child_of
from supervision.backoff import Backoff
from supervision.spec import SupervisorOptions

REST_S: Final = 0.3
#: Every kill is the first one after a steady run, which is not waited for (`Backoff`).
STEADY: Final = Backoff(steady_s=REST_S / 2)


class Restarts(NamedTuple):
    """Milliseconds from SIGKILL to ready, of a kind and of the bare actor beside it."""

    own: list[float]
    bare: list[float]

    @property
    def ratio(self) -> float:
        """Of the medians."""
        return median(self.own) / median(self.bare)


async def restart_times(
    node: FaultNode, chosen: Sequence[str], rounds: int, *, spare: bool
) -> dict[str, Restarts]:
    """`rounds` for each kind; from a warm spare or spawned."""
    times: dict[str, Restarts] = {}
    bare = Bare.spec(id="bare", backoff=STEADY)
    for name in chosen:
        subject = msgspec.structs.replace(
            child_of(node.kinds[name], "subject", stand_in=False), backoff=STEADY
        )
        children = (subject, bare)
        async with node.grown("sut", SupervisorOptions(intensity=10_000, children=children)):
            times[name] = restarts = Restarts([], [])
            for _ in range(rounds):
                restarts.own.append(await _restart_ms(node, "subject", spare))
                restarts.bare.append(await _restart_ms(node, "bare", spare))
    return times


async def _restart_ms(node: FaultNode, id: str, spare: bool) -> float:
    was, _ = await node.until(all_run)
    if spare:
        await _warm(was["sut"].pid)
    await asyncio.sleep(REST_S)  # the machine rests, as it mostly does before a fault
    began = time.monotonic()
    os.kill(was[f"sut/{id}"].pid, signal.SIGKILL)
    _, at = await node.until(lambda nodes: back(was, nodes, {id: 1}))
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
