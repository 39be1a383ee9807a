"""`tether shell`."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final, NamedTuple

from supervision.telemetry import logs
from supervision.telemetry.audit import Audit, Who
from tether.admin.auditor import Auditor, HereAuditor, ThereAuditor
from tether.admin.grid import terminal_width
from tether.admin.lines import script
from tether.admin.node import NodeClient
from tether.admin.refused import CommandRefused
from tether.admin.remote import RemoteNode
from tether.admin.shell import OK, Left, Shell
from tether.cli.failure import CommandFailed
from tether.config import Config

HISTORY: Final = "shell_history"


def shell(config: Config, command: str | None, *, as_json: bool, allow_eval: bool) -> int:
    """Run commands on the node of `config`: those of `command`, else those that are typed, or
    come from standard input.

    Raises:
        CommandFailed: no node runs there, or it doesn't answer.
    """
    home, who = config.data_dir, Who.here()
    others = {m.id: m.place for m in config.nodes if m.id != config.node.id}
    node = NodeClient(home, identity=config.identity_dir if others else None, routes=others)

    def auditor() -> Auditor:
        return HereAuditor(Audit(home, who, node.state.node))

    flags = _Flags(command, as_json, allow_eval)
    return _done(_run(node, auditor, flags, home / HISTORY, who.user))


def shell_away(
    where: str, config: Config | None, identity: Path, command: str | None, *, as_json: bool
) -> int:
    """As `shell`, on a node of another machine: `where` is ID@HOST:PORT, or the id of one of the
    nodes of `config`; `identity` holds the certificate of an operator.

    Raises:
        CommandFailed: the node can't be reached, or refuses us.
    """
    id_, _, place = where.partition("@")
    if not place:
        member = next((m for m in config.nodes if m.id == id_), None) if config else None
        if member is None:
            raise CommandFailed(
                f"nobody says where node {id_!r} is: write --node ID@HOST:PORT, or list it in "
                "cluster.toml",
                code=2,
            )
        place = member.place
    try:
        routes = {m.id: m.place for m in config.nodes} if config else {}
        node = RemoteNode(id_, place, identity, routes)
    except CommandRefused as error:
        raise CommandFailed(error.sentence, code=error.code) from error
    flags = _Flags(command, as_json, allow_eval=False)
    return _done(_run(node, lambda: ThereAuditor(node), flags, identity / HISTORY, ""))


class _Flags(NamedTuple):
    command: str | None
    as_json: bool
    allow_eval: bool


def _done(work: Coroutine[Any, Any, int]) -> int:
    logs.configure(os.environ.get("TETHER_LOG_LEVEL", "CRITICAL"))  # sentences say what is wrong
    try:
        return asyncio.run(work)
    except CommandRefused as error:
        raise CommandFailed(error.sentence, code=error.code) from error


async def _run(
    node: NodeClient, auditor: Callable[[], Auditor], flags: _Flags, history: Path, user: str
) -> int:
    typed = flags.command is None and sys.stdin.isatty()
    async with node:
        shell = Shell(
            node,
            auditor(),
            write=_write,
            complain=_complain,
            as_json=flags.as_json,
            live=sys.stdout.isatty() and not flags.as_json,
            allow_eval=flags.allow_eval,
            width=terminal_width,
        )
        if typed:
            from tether.admin.prompt import converse

            return await converse(shell, history, user)
        try:
            return await script(shell, flags.command)
        except Left:
            return OK


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _complain(sentence: str) -> None:
    print(f"tether: {sentence}", file=sys.stderr, flush=True)
