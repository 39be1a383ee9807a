"""The processes left of a node whose launcher or root supervisor was killed, and their end.

Its processes stop by themselves, in the order of the tree: first those that answer clients, then
those that settle what was answered (`supervision.orphan_order`). They are left to it, within a
bound, before anybody is told to end or killed.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from supervision.living_processes import LivingProcesses
from supervision.runtime import Address
from tether.node.home import NodeState
from tether.node.processes import end_all, reap

PATIENCE_S: Final = 15.0
_STEP_S: Final = 0.02


def end_remains(home: Path, state: NodeState | None, *, grace_s: float) -> list[int]:
    """End all processes of the node at `home`, whose `state` it told last, and return the pids that
    had to be killed. Blocks for `PATIENCE_S`, `grace_s` and a second at most, and not at all where
    nothing is left.

    Raises:
        ValueError: its root has no address.
    """
    if state is not None and state.root:
        _await_order(Path(state.run_dir), Address.parse(state.root))
    return end_all(home, grace_s=grace_s)


def _await_order(run_dir: Path, root: Address) -> None:
    """Wait until nobody of the tree under `root` is left."""
    try:
        roll = LivingProcesses(run_dir, root.node, root.name)
    except OSError:
        return  # its sockets are gone, so nobody could settle with anybody
    until = time.monotonic() + PATIENCE_S
    try:
        while roll.standing(0) and time.monotonic() < until:
            reap()
            time.sleep(_STEP_S)
    finally:
        roll.close()
