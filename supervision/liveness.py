"""Whether the loop of a running child turns, and how much memory it holds.

A process that hangs (SIGSTOP, a lock, an endless loop) keeps its connections, so nobody hears of
it but by asking. Its memory is looked at from outside: RLIMIT_AS counts what is merely reserved,
of which allocators, threads and mapped models take many times what they use, and it strikes
wherever the next allocation happens to be. What a process holds for itself is what the kernel
can't take back: resident pages but for those of files and shared memory; what processes of its own
hold counts with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from supervision.contracts import Ping
from supervision.errors import NoAnswer, Overloaded, PeerLost, TetherError

if TYPE_CHECKING:
    from supervision.runtime import Actor, Address
    from supervision.spec import ChildSpec

LOOK_S: Final = 1.0  # between two looks at the memory of a child
_SHARES: Final = 4  # of its deadline, in which an answer is looked for
_SILENT: Final = (PeerLost, Overloaded, NoAnswer)  # no word of the child's own


async def attend(
    actor: Actor, spec: ChildSpec, address: Address, doom: Callable[[str], object]
) -> None:
    """Watch over the child at `address` for as long as it runs; `doom` is called with what ails
    it, once. Cancel it when the child is gone or told to stop."""
    duties = []
    if spec.probe_s:
        duties.append(_until_deaf(actor, spec.probe_s, address))
    if spec.max_memory_bytes and address.node == actor.address.node:
        duties.append(_until_fat(spec.max_memory_bytes, address.pid))
    if not duties:
        return
    tasks = [asyncio.ensure_future(duty) for duty in duties]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
    doom(done.pop().result())


async def _until_deaf(actor: Actor, deadline_s: float, address: Address) -> str:
    """Returns when a ping wasn't answered for `deadline_s` seconds in which our own loop turned:
    a machine that slept, or a supervisor that got no processor, is no child that hangs."""
    loop = asyncio.get_running_loop()
    share_s = deadline_s / _SHARES
    unheard = 0
    asked = asyncio.ensure_future(_answers(actor, address, deadline_s * 2))
    try:
        while True:
            due = loop.time() + share_s
            await asyncio.wait([asked], timeout=share_s)
            late = loop.time() - due > share_s / 2
            unheard = 0 if late or (asked.done() and asked.result()) else unheard + 1
            if unheard >= _SHARES:
                return f"hung: it has not answered for {deadline_s:g} s"
            if asked.done():
                await asyncio.sleep(max(0.0, due - loop.time()))
                asked = asyncio.ensure_future(_answers(actor, address, deadline_s * 2))
    finally:
        asked.cancel()


async def _answers(actor: Actor, address: Address, timeout_s: float) -> bool:
    try:
        await actor.ask(address, Ping(), timeout=timeout_s)
    except _SILENT:
        return False
    except TetherError:
        return True  # whoever refuses has a loop that turns
    return True


async def _until_fat(limit: int, pid: int) -> str:
    while True:
        held = held_bytes(pid)
        if held > limit:
            return f"memory: it holds {held >> 20} MiB, and may hold {limit >> 20}"
        await asyncio.sleep(LOOK_S)


def held_bytes(pid: int) -> int:
    """What the process `pid` and those that it has started hold for themselves, in bytes; 0 if
    there is none."""
    import psutil  # 10 ms, which the start of an actor can do without

    held, pids = 0, [pid]
    while pids:
        pid = pids.pop()
        try:
            memory = psutil.Process(pid).memory_info()
            # psutil's `children` reads all processes of the machine, 7 ms for 500 of them, every
            # second for every child; the kernel has a list (any thread may have started some)
            children = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
        except (OSError, psutil.Error):
            continue  # it has ended
        held += memory.rss - memory.shared
        pids += [int(child) for line in children for child in line.split()]
    return held
