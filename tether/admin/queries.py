"""The commands that look at a node's processes: `tree`, `ps`, `top`, `inspect`, `stats`."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

from supervision.contracts import ChildKind, ChildStatus, Tree, TreeNode
from supervision.contracts.operating import ActorState, Inspect, Inspected, ShowStats, Stats
from supervision.errors import TetherError
from supervision.runtime import Address
from tether.admin.measure import Used, age_s, began, used
from tether.admin.names import ROOT
from tether.admin.node import NodeClient
from tether.admin.output import Output, age, aligned, fields, plain, size, table
from tether.admin.refused import CommandRefused

SAMPLE_S: Final = 0.5  # over which the first frame of `top` measures

Words = list[str]


async def tree(node: NodeClient, words: Words) -> Output:
    """The supervision tree; who is suspended, drains, or doesn't answer is asked of each."""
    found = await node.look()
    standing = await node.inspected(found.nodes)
    rows = []
    lines = []
    for child in found.nodes:
        seen = standing.get(child.path)
        state = _state(child, seen)
        rows.append({**plain(child), "state": state})
        depth = child.path.count("/") + 1 if child.path else 0
        name = child.path.rpartition("/")[2] or node.state.node
        lines.append(
            [
                "  " * depth + name,
                state,
                age(child.since_s),
                f"pid {child.pid}{_where(node, child)}" if child.pid else "",
                child.strategy,
                f"restarts {child.restarts}" if child.restarts else "",
                f"last exit: {child.last_exit}" if child.last_exit else "",
            ]
        )
    return Output(parts=(aligned(lines, whole=range(6)),), rows=tuple(rows))


def _where(node: NodeClient, child: TreeNode) -> str:
    """On which other node it runs."""
    there = Address.parse(child.address).node if child.address else node.state.node
    return f" on {there}" if there != node.state.node else ""


def _state(child: TreeNode, seen: Inspected | None) -> str:
    if child.state is not ChildStatus.RUNNING:
        return child.state
    if seen is None:
        return "silent"  # its process is there, and says nothing
    if seen.state is ActorState.RUNNING and dict(seen.notes).get("draining") == "True":
        return "draining"
    return seen.state


async def ps(node: NodeClient, words: Words) -> Output:
    """All processes of the node."""
    rows = []
    for path, pid, child, taken in await _processes(node, await node.look()):
        rows.append(
            {
                "id": path,
                "pid": pid,
                "memory": size(taken.memory_bytes),
                "cpu": f"{taken.cpu_s:.2f} s",
                "since": age(age_s(taken.began)),
                "restarts": child.restarts if child else 0,
                "memory_bytes": taken.memory_bytes,
                "cpu_s": taken.cpu_s,
                "since_s": round(age_s(taken.began), 2),
            }
        )
    return table(
        ("id", "pid", "memory", "cpu", "since", "restarts"), rows, empty="no process is left"
    )


_Process = tuple[str, int, TreeNode | None, Used]


async def _processes(node: NodeClient, found: Tree) -> list[_Process]:
    """Name, pid, child if it is one, and what it uses, of all that `tether up` has started, and of
    itself. Processes of other machines are asked, those of this one are looked at."""
    processes: list[_Process] = []
    if node.local:
        for name, pid in (("(tether up)", node.state.pid), ("(admin)", node.endpoint.admin_pid)):
            if taken := used(pid):
                processes.append((name, pid, None, taken))
    away = await node.inspected(n for n in found.nodes if n.address and not node.here(n))
    for child in found.nodes:
        if child.path in away:
            seen = away[child.path]
            taken = (
                Used(seen.cpu_s, seen.memory_bytes, began(child.since_s))
                if seen is not None
                else None
            )
        else:
            taken = used(child.pid) if child.pid else None
        if taken:
            processes.append((child.path or ROOT, child.pid, child, taken))
    return processes


class Top:
    """The frames of `top`: what each process used of the processor since the frame before."""

    def __init__(self) -> None:
        self._before: dict[tuple[str, int], Used] = {}
        self._at = 0.0

    async def __call__(self, node: NodeClient, words: Words) -> Output:
        """One frame; the first takes `SAMPLE_S`."""
        found = await node.look()
        if not self._before:
            self._sample(await _processes(node, found))
            await asyncio.sleep(SAMPLE_S)
        before, since = self._before, time.monotonic() - self._at
        processes = await _processes(node, found)
        self._sample(processes)
        standing = await node.inspected(found.nodes)
        rows: list[dict[str, Any]] = []
        for path, pid, child, now in processes:
            cpu = 100 * (now.cpu_s - before.get((path, pid), now).cpu_s) / max(since, 0.001)
            seen = standing.get(child.path) if child else None
            rows.append(
                {
                    "id": path,
                    "pid": pid,
                    "cpu%": round(cpu, 1),
                    "memory": size(now.memory_bytes),
                    "state": _state(child, seen) if child else "running",
                    "handlers": sum(count for _, count in seen.handlers) if seen else 0,
                    "held": seen.held if seen else 0,
                    "memory_bytes": now.memory_bytes,
                }
            )
        rows.sort(key=lambda row: (-row["cpu%"], row["id"]))
        shown = table(
            ("id", "pid", "cpu%", "memory", "state", "handlers", "held"), rows, empty="nothing runs"
        )
        cpu_sum = sum(float(row["cpu%"]) for row in rows)
        memory = sum(int(row["memory_bytes"]) for row in rows)
        head = (
            f"{node.state.node}  {node.state.url}  {len(rows)} processes, {cpu_sum:.0f} % of a "
            f"core, {size(memory)}"
        )
        return Output(parts=(head, "", *shown.parts), rows=shown.rows)

    def _sample(self, processes: list[_Process]) -> None:
        self._before = {(name, pid): taken for name, pid, _, taken in processes}
        self._at = time.monotonic()


async def inspect(node: NodeClient, words: Words) -> Output:
    """One actor, from its supervisor's view and its own."""
    child = await node.child(words[0])
    row: dict[str, Any] = {"id": child.path or ROOT, **plain(child)}
    children = [n.path for n in node.tree.nodes if n.path and _parent(n.path) == child.path]
    if child.kind is ChildKind.SUPERVISOR:
        row["children"] = children
    spec = await node.spec(child)
    if spec:
        row["spec"] = spec
    seen: Inspected | None = None
    if child.address:
        try:
            seen = await node.ask(child.address, Inspect(), Inspected)
        except TetherError as error:
            row["silent"] = error.message
    if seen is not None:
        row["state"] = _state(child, seen)
        row |= {
            "actor": seen.actor,
            "log_level": seen.log_level,
            "cpu_s": round(seen.cpu_s, 3),
            "memory_bytes": seen.memory_bytes,
            "handlers": dict(seen.handlers),
            "max_handlers": seen.max_handlers,
            "held": seen.held,
            "background": dict(seen.background),
            "asks": seen.asks,
            "streams": seen.streams,
            "peers": [plain(peer) for peer in seen.peers],
            "notes": dict(seen.notes),
            "answers": list(seen.answers),
        }
    shown = fields(row, hidden=("path", "peers", "answers", "notes", "silent", "spec"))
    parts = list(shown.parts)
    if spec:
        parts += ["spec", aligned(spec.items(), indent=2)]
    if seen is None and child.address:
        parts.append(f"it does not say how it stands: {row['silent']}")
    if seen is not None:
        parts += ["own figures", aligned(seen.notes, indent=2)]
        parts.append(f"answers {', '.join(seen.answers)}")
        peers = table(
            ("address", "pid", "state", "queued", "serving"),
            [{**plain(p), "address": _named(node, p.address)} for p in seen.peers],
            empty="it talks to nobody",
            indent=2,
        )
        parts += ["peers", *peers.parts]
    return Output(parts=tuple(parts), rows=(row,))


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _named(node: NodeClient, address: str) -> str:
    """An address with the path of the child that has it."""
    path = next((n.path or ROOT for n in node.tree.nodes if n.address == address), "")
    return f"{address} ({path})" if path else address


async def stats(node: NodeClient, words: Words) -> Output:
    """What one process adds to `/metrics`; with a second word only names that hold it."""
    child = await node.process(words[0])
    part = words[1] if len(words) > 1 else ""
    found = await node.ask(child.address, ShowStats(), Stats)
    rows = [
        {
            "name": figure.name,
            "labels": dict(figure.labels),
            "value": figure.value,
            "kind": figure.kind,
        }
        for figure in found.figures
        if part in figure.name
    ]
    if not rows:
        raise CommandRefused(f"{child.path or ROOT} has no figure whose name holds {part!r}")
    lines = [[_figure(row["name"], row["labels"]), f"{row['value']:.12g}"] for row in rows]
    return Output(parts=(aligned(lines, whole=(0, 1), right=(1,)),), rows=tuple(rows))


def _figure(name: Any, labels: Any) -> str:
    inner = ",".join(f'{key}="{value}"' for key, value in labels.items())
    return f"{name}{{{inner}}}" if inner else str(name)
