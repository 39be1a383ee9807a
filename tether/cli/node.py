"""The node that runs on this machine, as a command asks it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from supervision.contracts import Contract, ShowTree, Tree
from supervision.errors import Draining, NoAnswer, PeerLost, TetherError, Unavailable
from supervision.runtime import Endpoint
from supervision.telemetry.audit import Audit, Unwritable, Who
from tether.cli.failure import CommandFailed
from tether.config import Config
from tether.node.home import NodeState, running

ASK_S: Final = 5.0
_PAUSE_S: Final = 0.2
#: Nobody has answered; what an actor says by itself is of another class.
AWAY: Final = (Unavailable, PeerLost, Draining, NoAnswer)

_Answer = TypeVar("_Answer", bound=Contract)
_Result = TypeVar("_Result")


def state_of(config: Config) -> NodeState:
    """What the node says of itself.

    Raises:
        CommandFailed: it doesn't run.
    """
    state = running(config.data_dir)
    if state is None or not state.root:
        raise CommandFailed(f"no node runs on {config.data_dir}; `tether up` starts one")
    return state


def ask(
    config: Config,
    contract: Contract,
    answer: type[_Answer],
    *,
    path: str = "",
    what: str,
    timeout_s: float = ASK_S,
    patience_s: float = 0.0,
) -> _Answer:
    """What the child at `path` answers, by default the root supervisor. One that is away, such as
    for a restart, is asked again for `patience_s`: only what may be said twice. `what` it is about
    completes "the node does not …".

    Raises:
        CommandFailed: no node runs, or it doesn't answer.
        TetherError: what it says is wrong.
    """
    state = state_of(config)
    try:
        found = asyncio.run(_patiently(state, path, contract, timeout_s, patience_s))
    except TetherError as error:
        if type(error) in AWAY:
            raise CommandFailed(f"the node does not {what} ({error}); try again") from error
        raise
    except OSError as error:
        raise CommandFailed(
            f"the sockets of the node are not for you ({error.strerror}); be the user that runs "
            "it, or root"
        ) from error
    if not isinstance(found, answer):
        raise CommandFailed("the node is of another release; use the `tether` that started it")
    return found


async def _patiently(
    state: NodeState, path: str, contract: Contract, timeout_s: float, patience_s: float
) -> object:
    until = asyncio.get_running_loop().time() + patience_s
    while True:
        try:
            return await _ask(state, path, contract, timeout_s)
        except TetherError as error:
            if type(error) not in AWAY or asyncio.get_running_loop().time() >= until:
                raise
            await asyncio.sleep(_PAUSE_S)


async def _ask(state: NodeState, path: str, contract: Contract, timeout_s: float) -> object:
    async with Endpoint.connect(
        run_dir=state.run_dir, node=state.node, port=state.admin_port
    ) as endpoint:
        address = state.root
        if path:
            tree = await endpoint.ask(state.root, ShowTree(), timeout=ASK_S)
            found = tree.address(path) if isinstance(tree, Tree) else None
            if found is None:
                raise Unavailable(f"its {path.rpartition('/')[2]} does not run now")
            address = found
        return await endpoint.ask(address, contract, timeout=timeout_s)


def audited(
    config: Config, command: str, arguments: Sequence[str], work: Callable[[], _Result]
) -> _Result:
    """What `work` returns, written to the audit log of the node before and after.

    Raises:
        CommandFailed: no node runs, or its log can't be written; nothing was done then.
    """
    try:
        outcome = Audit(config.data_dir, Who.here(), state_of(config).node).begins(
            command, arguments
        )
        try:
            result = work()
        except (TetherError, CommandFailed) as error:
            outcome(f"refused: {error}")
            raise
        except BaseException as error:
            outcome(f"broken off: {type(error).__name__}")
            raise
        outcome("done")
    except Unwritable as error:
        raise CommandFailed(str(error)) from error
    return result
