"""Completion at the prompt: what may follow what was typed so far. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from supervision.telemetry.logs import LEVELS
from tether.admin.commands import ArgumentKind, ShellCommand
from tether.admin.mutations import MODES, SENDABLE
from tether.admin.names import ROOT

LEAVING = ("exit", "quit")


class Known(msgspec.Struct):
    """What completion knows of the node; as old as the last look at it."""

    node: str = ""
    children: tuple[str, ...] = ()
    workers: dict[str, tuple[str, ...]] = msgspec.field(default_factory=dict)  # and their models


def completions(
    line: str, commands: dict[str, ShellCommand], known: Known
) -> list[tuple[str, int]]:
    """What the last word of `line` may become, each with the characters of it that are there."""
    last = line.rpartition(";")[2].lstrip()
    words = last.split()
    if not last or last[-1].isspace():
        words.append("")
    typed = words[-1]
    if len(words) == 1:
        return _fitting([*commands, *LEAVING], typed)
    command = commands.get(words[0])
    if command is None or len(words) - 2 >= len(command.kinds):
        return []
    return _fitting(_choices(command.kinds[len(words) - 2], words[1:-1], known, command), typed)


def _choices(
    kind: ArgumentKind, before: list[str], known: Known, command: ShellCommand
) -> Iterable[str]:
    children = (*(c for c in known.children if c), ROOT)
    match kind:
        case ArgumentKind.CHILD:
            return children
        case ArgumentKind.TARGET:
            return (*LEVELS, *children)
        case ArgumentKind.DRAINED:
            ends = ("workers/", "doors/")
            return (known.node, *known.workers, *(c for c in known.children if c.startswith(ends)))
        case ArgumentKind.WORKER:
            return () if before == ["ls"] else known.workers
        case ArgumentKind.MODEL:
            return known.workers.get(before[-1], ())
        case ArgumentKind.OFFERED:
            return sorted({ref for models in known.workers.values() for ref in models})
        case ArgumentKind.SETTING:
            return ("ls", *MODES)
        case ArgumentKind.OFF:
            return ("off",)
        case ArgumentKind.LEVEL:
            return () if before[0].upper() in LEVELS else LEVELS
        case ArgumentKind.CONTRACT:
            return SENDABLE
        case ArgumentKind.COMMAND:
            from tether.admin.commands import all_commands

            return all_commands()
        case ArgumentKind.FREE:
            return ()


def _fitting(words: Iterable[str], typed: str) -> list[tuple[str, int]]:
    """Those that begin with what was typed, or whose last part does."""
    low = typed.lower()
    found = dict.fromkeys(words)
    begin = [word for word in found if word.lower().startswith(low)]
    inside = [
        word
        for word in found
        if word not in begin and word.rpartition("/")[2].lower().startswith(low)
    ]
    return [(word, len(typed)) for word in (*begin, *inside)]
