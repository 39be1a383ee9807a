"""`tether shell`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from tether.telemetry.audit import Audit, Who
from tether.admin.node import Node
from tether.admin.refused import Refused
from tether.admin.shell import OK, Left, Shell
from tether.cli.failure import CommandFailed
from tether.config import Config


def shell(config: Config, command: str | None, *, as_json: bool, allow_eval: bool) -> int:
    """Run commands on the node of `config`: those of `command`, else those
    that are typed, or come from standard input.

    Raises:
        CommandFailed: no node runs there, or it doesn't answer.
    """
    home = config.data_dir
    try:
        return asyncio.run(_run(home, command, as_json=as_json, allow_eval=allow_eval))
    except Refused as error:
        raise CommandFailed(error.sentence, code=error.code) from error


async def _run(home: Path, command: str | None, *, as_json: bool, allow_eval: bool) -> int:
    who = Who.here()
    typed = command is None and sys.stdin.isatty()
    live = sys.stdout.isatty() and not as_json
    async with Node(home) as node:
        shell = Shell(
            node,
            Audit(home, who, node.state.node),
            write=_write,
            complain=_complain,
            as_json=as_json,
            live=live,
            allow_eval=allow_eval,
        )
        if typed:
            from tether.admin.prompt import converse

            return await converse(shell, home, who.user)
        from tether.admin.lines import script

        try:
            return await script(shell, command)
        except Left:
            return OK


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _complain(sentence: str) -> None:
    print(f"tether: {sentence}", file=sys.stderr, flush=True)
