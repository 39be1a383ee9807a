"""A disk that is small and can be filled: a tmpfs, mounted where nobody but one process sees it. A
plain user may do that in a user namespace of his own."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

BLOCK = 4096
_MOUNT = 'mount -t tmpfs -o size="$1" tmpfs "$2" && shift 2 && exec "$@"'


def on_disk(folder: Path, size: str, *command: str) -> list[str]:
    """`command`, run where `folder` is a disk of `size` ("256k")."""
    folder.mkdir(exist_ok=True)
    return ["unshare", "-Urm", "sh", "-c", _MOUNT, "sh", size, str(folder), *command]


def python_on_disk(folder: Path, size: str, script: str, *args: str, **env: str) -> str:
    """What `script` prints, run by Python where `folder`, its first argument, is a disk of `size`.
    It must end in order."""
    command = on_disk(folder, size, sys.executable, "-c", script, str(folder), *args)
    done = subprocess.run(
        command, env={**os.environ, **env}, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, f"it ended with {done.returncode}: {done.stderr}"
    return done.stdout


def fill(folder: Path, leave: int = 0) -> Path:
    """Take all but `leave` bytes of the disk of `folder`; remove the file to free them."""
    ballast = folder / "ballast"
    with ballast.open("ab", buffering=0) as file:
        size = 1 << 20
        while size >= BLOCK:
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
            size //= 2
        if leave:
            file.truncate(max(0, file.tell() - leave))
    return ballast
