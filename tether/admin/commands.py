"""The commands of the shell: what they are called, what they take, and what they do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Final

import msgspec

from supervision.telemetry.logs import LEVELS
from tether.admin import mutations, queries, traffic
from tether.admin.names import listed, nearest
from tether.admin.node import NodeClient
from tether.admin.output import Output, aligned, table
from tether.admin.policies import policies
from tether.admin.refused import CommandRefused

Words = list[str]
Run = Callable[[NodeClient, Words], Awaitable[Output]]


class ArgumentKind(StrEnum):
    """What a word of a command is, for completion."""

    CHILD = "child"  # a path of the tree
    DRAINED = "drained"  # a worker, a door, or the node
    WORKER = "worker"  # the id of a worker
    MODEL = "model"  # the ref of a model that the worker before it has
    OFFERED = "offered"  # the ref of a model that any worker has
    SETTING = "setting"  # of a breaker
    OFF = "off"  # that word
    LEVEL = "level"  # of logs
    TARGET = "target"  # a child, or a level
    CONTRACT = "contract"  # that may be sent
    COMMAND = "command"  # the name of one
    FREE = "free"  # anything


class ShellCommand(msgspec.Struct, frozen=True):
    """`least` words at least, and one of each of `kinds` at most. `writes` says whether these
    words change anything. A `live` command goes on on a terminal until it is interrupted."""

    name: str
    usage: str
    help: str
    run: Run
    kinds: tuple[ArgumentKind, ...] = ()
    least: int = 0
    writes: Callable[[Words], bool] = lambda _: False
    live: bool = False

    def check(self, words: Words) -> None:
        """
        Raises:
            Refused: there are too few words, or too many.
        """
        if not self.least <= len(words) <= len(self.kinds):
            raise CommandRefused(f"write `{self.usage}`", code=2)


def _always(_: Words) -> bool:
    return True


async def _breaker(node: NodeClient, words: Words) -> Output:
    return await (traffic.breakers(node) if words == ["ls"] else mutations.breaker(node, words))


async def _loglevel(node: NodeClient, words: Words) -> Output:
    if words:
        return await mutations.loglevel(node, words)
    standing = await node.inspected((await node.look()).nodes)
    rows = [{"id": p or "root", "level": s.log_level if s else "?"} for p, s in standing.items()]
    return table(("id", "level"), rows, empty="no process is left")


async def _help(node: NodeClient, words: Words) -> Output:
    return explained(words[0]) if words else overview()


def all_commands() -> dict[str, ShellCommand]:
    """By name, in the order of `help`; made anew for each shell, since `top` remembers."""
    child = (ArgumentKind.CHILD,)
    found = (
        ShellCommand("help", "help [COMMAND]", "What there is, or what a command does.", _help,
                (ArgumentKind.COMMAND,)),
        ShellCommand("tree", "tree", "The supervision tree, and how each process stands.",
                queries.tree),
        ShellCommand("ps", "ps", "All processes: memory, processor time, since when, restarts.",
                queries.ps),
        ShellCommand("top", "top", "What the processes use and do now; goes on until Ctrl-C.",
                queries.Top(), live=True),
        ShellCommand("inspect", "inspect ID", "One actor: spec, state, children, mailbox, peers.",
                queries.inspect, child, 1),
        ShellCommand("stats", "stats ID [PART]",
                "What a process adds to /metrics; only names that hold PART.",
                queries.stats, (ArgumentKind.CHILD, ArgumentKind.FREE), 1),
        ShellCommand("workers", "workers", "All workers, as the roster sees them.",
        traffic.workers), ShellCommand("leases", "leases", "The leases in the database.",
        traffic.leases), ShellCommand("sessions", "sessions", "The requests that run.",
        traffic.sessions), ShellCommand("trace", "trace REQUEST",
                "A request by its x-request-id, Idempotency-Key or job: session, job, lease, bill.",
                traffic.trace, (ArgumentKind.FREE,), 1),
        ShellCommand("breaker", "breaker ls | open|close|disable WORKER [MODEL]",
                "The breakers; force one open, disable it, or close it and let it decide again.",
                _breaker, (ArgumentKind.SETTING, ArgumentKind.WORKER, ArgumentKind.MODEL), 1,
                writes=lambda words: words != ["ls"]),
        ShellCommand("policies", "policies [MODEL]",
                "What the requests to a model pass, outermost first, with options and state.",
                policies, (ArgumentKind.OFFERED,)),
        ShellCommand("restart", "restart ID",
                "Stop a child in order, if it runs, and start it, with those that depend on it.",
                mutations.restart, child, 1, writes=_always),
        ShellCommand("stop", "stop ID", "Stop a child in order; it stays down until `restart`.",
                mutations.stop, child, 1, writes=_always),
        ShellCommand("kill", "kill ID", "SIGKILL a process; its supervisor starts it again.",
                mutations.kill, child, 1, writes=_always),
        ShellCommand("suspend", "suspend ID",
                "Have an actor take no new requests: they wait. What runs goes on.",
                mutations.suspend, child, 1, writes=_always),
        ShellCommand("resume", "resume ID", "Undo `suspend`.", mutations.resume, child, 1,
        writes=_always), ShellCommand("drain", "drain NODE|ID [off]",
                "Have a worker, a door, or all of a node, turn new requests away; `off` undoes it.",
                mutations.drain, (ArgumentKind.DRAINED, ArgumentKind.OFF), 1, writes=_always),
        ShellCommand("loglevel", "loglevel [[ID] LEVEL]",
                f"The levels of logs, or set one: {listed(LEVELS)}.",
                _loglevel, (ArgumentKind.TARGET, ArgumentKind.LEVEL), writes=bool),
        ShellCommand("send", "send ID CONTRACT [JSON]",
                f"Ask an actor a contract; {listed(mutations.SENDABLE)}.", mutations.send,
                (ArgumentKind.CHILD, ArgumentKind.CONTRACT, ArgumentKind.FREE), 2, writes=_always),
        ShellCommand("eval", "eval EXPRESSION",
                "Run Python in the process of this shell: node, endpoint, tree, ask(ID, CONTRACT) "
                "and all contracts are at hand, and await works. Whoever may do this may do "
                "anything that the user of this shell may, so it needs --allow-eval of `tether up` "
                "and of `tether shell`. It takes all the rest of the line.",
                mutations.evaluate, (ArgumentKind.FREE,), 1, writes=_always),
    )  # fmt: skip
    return {command.name: command for command in found}


ALL: Final = "`help` shows all"
_TABLE: Final = all_commands()


def named(name: str, table_: dict[str, ShellCommand] | None = None) -> ShellCommand:
    """
    Raises:
        Refused: there is no such command.
    """
    found = (_TABLE if table_ is None else table_).get(name)
    if found is None:
        raise CommandRefused(
            f"there is no command {name!r}; {nearest(name, list(_TABLE), ALL)}", code=2
        )
    return found


def overview() -> Output:
    """All commands, a line each."""
    rows = [{"command": c.usage, "help": c.help} for c in _TABLE.values()]
    table_ = aligned([c.usage, _first(c.help)] for c in _TABLE.values())
    more = (
        "",
        "A semicolon ends a command. An ID is a path of `tree`, the last part of one, or a pid.",
        "Tab completes; exit or Ctrl-D leaves.",
    )
    return Output(parts=(table_, *more), rows=tuple(rows))


def explained(name: str) -> Output:
    """One command."""
    command = named(name)
    return Output(
        parts=(command.usage, f"  {command.help}"),
        rows=({"command": command.usage, "help": command.help},),
    )


def _first(sentences: str) -> str:
    """The first sentence, or as much of it as fits."""
    for end in (": `", "; ", ". "):
        if len(sentences) > 90 and end in sentences:
            return sentences.partition(end)[0] + "."
    return sentences
