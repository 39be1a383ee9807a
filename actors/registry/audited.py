"""Commands of operators in the audit log of the node whose registry does them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from supervision.child import Supervised
from supervision.errors import TetherError, Unavailable
from supervision.runtime import Address
from supervision.telemetry.audit import Audit, Unwritable, Who, home


@asynccontextmanager
async def audited(
    actor: Supervised, by: str, sender: Address, command: str, words: Sequence[str]
) -> AsyncIterator[None]:
    """Writes that a command begins, and what came of it; a node that keeps no audit log (it was not
    started by `tether up`) writes nothing. `by` is whose key has asked; without it `sender` has,
    with a certificate or at this machine.

    Raises:
        Unavailable: it can't be written; nothing is done.
    """
    folder = home()
    if folder is None:
        yield
        return
    who = Who(user=by) if by else Who(certificate=sender.node, pid=sender.pid)
    audit = Audit(folder, who, actor.address.node)
    run = actor.loop.run_in_executor
    try:
        ended = await run(None, audit.begins, command, words)
    except Unwritable as error:
        raise Unavailable(str(error)) from error
    outcome = "done"
    try:
        yield
    except TetherError as error:
        outcome = error.message
        raise
    except BaseException as error:
        outcome = type(error).__name__
        raise
    finally:
        try:
            await run(None, ended, outcome)
        except Unwritable as error:
            raise Unavailable(f"{command} came to this: {outcome}; but {error}") from error
