"""The commands that change a node. Each is written to the audit log first."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Final

import msgspec

from actors.contracts import BreakerStates, SetBreaker
from actors.contracts.operating import Drain
from supervision.contracts import ChildKind, ChildReady, ChildStopped, Contract, known
from supervision.contracts.operating import (
    LogLevel,
    OperateChild,
    Resume,
    SetLogLevel,
    Standing,
    Suspend,
    Verb,
)
from supervision.errors import TetherError
from supervision.unreadable import UNREADABLE
from tether.admin.names import ROOT, listed, names, nearest
from tether.admin.node import ASK_S, NodeClient
from tether.admin.output import Output, plain, said, table
from tether.admin.refused import CommandRefused
from tether.admin.traffic import SCHEDULER, fleet, shown_breakers

WORKERS: Final = "workers"
DOORS: Final = "doors"
MODES: Final = {"open": "forced_open", "close": "automatic", "disable": "disabled"}
VERB_S: Final = 90.0  # for a child to stop and start; its own deadlines are shorter
#: What `send` sends: what only looks, and what operators may do by other commands as well.
SENDABLE: Final = (
    "Drain",
    "FindRequest",
    "Inspect",
    "Readiness",
    "Resume",
    "SetBreaker",
    "SetLogLevel",
    "ShowBreakers",
    "ShowSessions",
    "ShowSpec",
    "ShowStats",
    "ShowTree",
    "Suspend",
)

Words = list[str]


async def restart(node: NodeClient, words: Words) -> Output:
    """Stop a child in order, if it runs, and start it; or start one that was stopped."""
    child = await node.child(words[0])
    id_ = child.path.rpartition("/")[2]
    order = OperateChild(id=id_, verb=Verb.RESTART)
    ready = await node.ask(node.supervisor(child), order, ChildReady, VERB_S)
    return said(f"{child.path} runs as pid {ready.pid}", id=child.path, pid=ready.pid)


async def stop(node: NodeClient, words: Words) -> Output:
    """Stop a child in order; it stays down until `restart`."""
    child = await node.child(words[0])
    id_ = child.path.rpartition("/")[2]
    order = OperateChild(id=id_, verb=Verb.STOP)
    await node.ask(node.supervisor(child), order, ChildStopped, VERB_S)
    if any(left.path == child.path for left in (await node.look()).nodes):
        return said(f"{child.path} is stopped; `restart {child.path}` starts it", id=child.path)
    return said(f"{child.path} is stopped, and forgotten: it was a temporary child", id=child.path)


async def kill(node: NodeClient, words: Words) -> Output:
    """SIGKILL a process; its supervisor starts it again."""
    child = await node.process(words[0])
    if not child.path:
        raise CommandRefused(
            "the node would end with its root; `tether down` stops it in order", code=2
        )
    if not node.here(child):
        order = OperateChild(id=child.path.rpartition("/")[2], verb=Verb.KILL)
        await node.ask(node.supervisor(child), order, ChildStopped)
        return said(f"killed pid {child.pid} of {child.path}", id=child.path, pid=child.pid)
    try:
        os.kill(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        raise CommandRefused(
            f"pid {child.pid} of {child.path} is gone already; see `tree`"
        ) from None
    except PermissionError:
        raise CommandRefused(
            f"pid {child.pid} is not yours; be the user that runs the node"
        ) from None
    return said(f"killed pid {child.pid} of {child.path}", id=child.path, pid=child.pid)


async def suspend(node: NodeClient, words: Words) -> Output:
    """Have an actor take no new requests; they wait."""
    return await _standing(node, words[0], Suspend())


async def resume(node: NodeClient, words: Words) -> Output:
    """Have an actor take requests again."""
    return await _standing(node, words[0], Resume())


async def _standing(node: NodeClient, name: str, contract: Suspend | Resume) -> Output:
    child = await node.process(name)
    found = await node.ask(child.address, contract, Standing)
    path = child.path or ROOT
    return said(f"{path} is {found.state}", id=path, state=found.state)


async def drain(node: NodeClient, words: Words) -> Output:
    """Have a worker, a door, or all of them, turn new requests away; `off` undoes it."""
    if len(words) > 1 and words[1] != "off":
        raise CommandRefused("drain takes an id, and perhaps `off`", code=2)
    on = len(words) == 1
    found = await node.look()
    if words[0] in (node.state.node, ROOT):
        chosen = [*found.under(WORKERS), *found.under(DOORS)]
    else:
        child = await node.process(words[0])
        chosen = [child]
        if child.kind is ChildKind.SUPERVISOR:
            chosen = list(found.under(child.path))
    if not chosen:
        raise CommandRefused(f"{words[0]} has neither worker nor door; see `tree`")
    answers = await asyncio.gather(
        *(node.ask(child.address, Drain(on=on), Standing) for child in chosen),
        return_exceptions=True,
    )
    rows = []
    for child, answer in zip(chosen, answers, strict=True):
        if isinstance(answer, Standing):
            rows.append({"id": child.path, "state": answer.state})
        elif isinstance(answer, TetherError | CommandRefused):
            rows.append({"id": child.path, "state": f"refused: {answer}"})
        else:
            raise answer
    if all(str(row["state"]).startswith("refused") for row in rows):
        raise CommandRefused(
            f"{words[0]} can't be drained, only workers and doors can ({rows[0]['state']})"
        )
    return table(("id", "state"), rows, empty="")


async def breaker(node: NodeClient, words: Words) -> Output:
    """Set the breakers of a worker, or the one of one of its models."""
    if words[0] not in MODES or len(words) < 2:
        raise CommandRefused(
            "write `breaker ls`, or `breaker open|close|disable WORKER [MODEL]`", code=2
        )
    worker = words[1].removeprefix(f"{WORKERS}/")
    reports = (await fleet(node)).workers
    ids = [report.worker_id for report in reports]
    if worker not in ids:
        raise CommandRefused(
            f"there is no worker {worker!r}; {nearest(worker, ids, '`workers` shows all')}", code=2
        )
    model = words[2] if len(words) > 2 else ""
    set_ = SetBreaker(worker_id=worker, model_ref=model, mode=MODES[words[0]])
    return shown_breakers(await node.ask(await node.at(SCHEDULER), set_, BreakerStates))


async def loglevel(node: NodeClient, words: Words) -> Output:
    """Set the level of one process's logs, or of all."""
    level = words[-1]
    if len(words) > 1:
        chosen = [await node.process(words[0])]
    else:
        chosen = [child for child in (await node.look()).nodes if child.address]
    rows = []
    for child in chosen:
        try:
            found = await node.ask(child.address, SetLogLevel(level=level), LogLevel)
        except TetherError as error:
            if len(chosen) == 1 or error.status == 400:
                raise
            rows.append({"id": child.path or ROOT, "level": f"unknown: {error.message}"})
        else:
            rows.append({"id": child.path or ROOT, "level": found.level, "before": found.before})
    return table(("id", "level", "before"), rows, empty="no process is left")


async def send(node: NodeClient, words: Words) -> Output:
    """Ask an actor one of the contracts that may be sent."""
    child = await node.process(words[0])
    contract = made(words[1], words[2] if len(words) > 2 else "{}")
    answer = await node.endpoint.ask(child.address, contract, ASK_S)
    row = {"answer": type(answer).__name__ if answer is not None else "", **(plain(answer) or {})}
    text = msgspec.json.format(msgspec.json.encode(row), indent=2).decode()
    return Output(parts=tuple(text.splitlines()), rows=(row,))


def made(name: str, text: str) -> Contract:
    """The contract `name` with the fields that `text` gives as a JSON object.

    Raises:
        Refused: it may not be sent, or its fields are others.
    """
    allowed = {c.__name__: c for c in known() if c.__name__ in SENDABLE}
    contract = allowed.get(name)
    if contract is None:
        raise CommandRefused(
            f"{name} can't be sent; {nearest(name, list(allowed), '`help send` shows what can')}",
            code=2,
        )
    try:
        given = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        wanted = {field.name: field for field in msgspec.structs.fields(contract)}
        if wrong := [key for key in given if key not in wanted]:
            raise CommandRefused(
                f"{name} has no field {listed(wrong)}; it has {listed(wanted) or 'none'}", code=2
            )
        return contract(
            **{key: msgspec.json.decode(raw, type=wanted[key].type) for key, raw in given.items()}
        )
    except UNREADABLE as error:
        raise CommandRefused(f"the fields of {name} don't fit: {error}", code=2) from error
    except TypeError as error:
        raise CommandRefused(f"{name} lacks a field: {error}", code=2) from error


async def evaluate(node: NodeClient, words: Words) -> Output:
    """Run Python in this shell's own process, with the node at hand."""
    import ast
    import inspect

    from actors import contracts
    from supervision.contracts import operating

    async def ask(name: str, contract: Contract, timeout: float = ASK_S) -> object:
        return await node.endpoint.ask((await node.process(name)).address, contract, timeout)

    space: dict[str, object] = {
        **{name: getattr(contracts, name) for name in contracts.__all__},
        **{c.__name__: c for c in vars(operating).values() if inspect.isclass(c)},
        "ask": ask,
        "endpoint": node.endpoint,
        "node": node,
        "tree": await node.look(),
        "names": names(node.tree),
    }
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    try:
        code = compile(words[0], "<eval>", "eval", flags=flags)
    except SyntaxError as error:
        raise CommandRefused(f"this is no expression of Python ({error.msg})", code=2) from error
    try:
        value = eval(code, space)
        if inspect.isawaitable(value):
            value = await value
    except TetherError:
        raise
    except Exception as error:
        raise CommandRefused(f"{type(error).__name__}: {error}") from error
    return Output(parts=(repr(value),), rows=({"value": repr(value)},))
