"""A folder that nobody may write, root included: mounted read-only where nobody but one process
sees it. A plain user may do that in a user namespace of his own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_MOUNT = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@"'


def python_on_read_only(folder: Path, script: str, *args: str) -> str:
    """What `script` prints, run by Python where `folder`, its first argument, is read-only.
    It must end in order."""
    command = ["unshare", "-Urm", "sh", "-c", _MOUNT, "sh", str(folder)]
    done = subprocess.run(
        [*command, sys.executable, "-c", script, str(folder), *args],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"it ended with {done.returncode}: {done.stderr}"
    return done.stdout
