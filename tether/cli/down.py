"""`tether down`."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import Final

from tether.cli.failure import CommandFailed
from tether.config import Config
from tether.node.home import is_held, running
from tether.node.leftovers import end_remains

_STEP_S: Final = 0.05
_GRACE_S: Final = 2.0


def down(config: Config, *, timeout_s: float) -> int:
    """Stop the node that runs on the data directory of `config`: SIGTERM, then,
    after `timeout_s`, kill it with all of its processes, and say so.

    Raises:
        CommandFailed: no node runs there.
    """
    home = config.data_dir
    state = running(home)
    if state is None and is_held(home):
        raise CommandFailed(f"the node on {home} is only just starting; try again in a moment")
    if state is None:
        raise CommandFailed(f"no node runs on {home}; `tether up` starts one")
    _signal(state.pid, signal.SIGTERM)
    if _released(home, timeout_s):
        print(f"node {state.node} (pid {state.pid}) has stopped")
        return 0
    _signal(state.pid, signal.SIGKILL)
    killed = end_remains(home, state, grace_s=_GRACE_S)
    print(
        f"tether: node {state.node} (pid {state.pid}) did not stop within {timeout_s:g} s and was "
        f"killed, with {len(killed)} of its processes",
        file=sys.stderr,
    )
    return 0


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # it ended by itself just now
        os.kill(pid, number)


def _released(home: Path, timeout_s: float) -> bool:
    """Wait until nobody holds `home`; the kernel lets go of the lock when its holder is gone."""
    until = time.monotonic() + timeout_s
    while is_held(home):
        if time.monotonic() >= until:
            return False
        time.sleep(_STEP_S)
    return True
