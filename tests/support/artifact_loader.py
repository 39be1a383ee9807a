"""`python -m tests.support.artifact_loader PLAN.json`: a loader that may kill itself with SIGKILL.

It asks for a model as a worker does. PLAN says which, and at which of its operations on the file
system below the cache it ends: Python tells of each by an audit event. Prints the folder and how
many operations there were.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import msgspec

from actors.artifacts.options import ArtifactOptions
from actors.artifacts.source import localized
from actors.contracts import ModelCard
from actors.engines import folder
from supervision.telemetry import logs


class Plan(msgspec.Struct):
    source: str
    cache_dir: str
    artifacts: ArtifactOptions
    end_at: int  # the operation at which it dies; 0: none


_EVENTS = frozenset({
    "open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.utime",
    "os.scandir", "os.listdir", "shutil.rmtree", "fcntl.flock", "pathlib.Path.glob",
})  # fmt: skip


def main() -> None:
    logs.configure("ERROR")
    plan = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Plan)
    below = plan.cache_dir
    seen = 0

    def told(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        if event not in _EVENTS:
            return
        if event != "fcntl.flock" and not str(arguments[0]).startswith(below):
            return
        seen += 1
        if seen == plan.end_at:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(told)
    card = ModelCard(name="tiny", version="1", engine="transformers", source=plan.source)
    ready = localized(card, Path(plan.cache_dir), plan.artifacts)
    operations = seen
    folder.check(Path(ready.source))  # as the engine does
    print(ready.source, operations)


if __name__ == "__main__":
    main()
