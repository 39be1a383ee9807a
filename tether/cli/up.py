"""`tether up`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from supervision.telemetry import logs
from tether.cli.check import warnings
from tether.cli.failure import CommandFailed
from tether.config import Config
from tether.node.launcher import Launcher, NodeFailed

log = logs.get(__name__)


def up(config: Config, *, dev: bool, log_file: Path | None, allow_eval: bool = False) -> int:
    """Run this node until it is told to stop; logs go to `log_file`, or to
    standard error.

    Raises:
        HomeUnusable, TetherError: it can't be started; says why.
        CommandFailed: it did not come up, or broke, or can't be run like that.
    """
    if dev and not config.has_role("control"):
        raise CommandFailed(
            f"--dev makes a key, and node {config.node.id} has no database to keep it: it hasn't "
            "the role control; leave --dev out"
        )
    with _logging_to(log_file) as terminal, Bars(terminal) as bars:
        logs.configure("DEBUG" if dev else None)
        for sentence in warnings(config, config.member):
            log.warning("the database", warning=sentence)
        try:
            Launcher(config, bars, dev=dev, allow_eval=allow_eval).run()
        except KeyboardInterrupt:
            bars.say("stopped before it was up")
        except NodeFailed as error:
            raise CommandFailed(str(error)) from error
    return 0


@contextmanager
def _logging_to(log_file: Path | None) -> Iterator[TextIO]:
    """Lead standard error, which all processes of the node inherit, to `log_file` for a while;
    gives what it was."""
    number = sys.stderr.fileno()
    with os.fdopen(os.dup(number), "w") as terminal:
        try:
            if log_file is not None:
                log = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
                os.dup2(log, number)
                os.close(log)
            yield terminal
        except OSError as error:
            if error.filename != str(log_file):
                raise
            raise CommandFailed(f"{log_file} cannot be written ({error.strerror})") from None
        finally:
            os.dup2(terminal.fileno(), number)


class Bars:
    """Progress bars where `terminal` is one; elsewhere a line for each beginning and
    each end. What is said goes to standard output."""

    def __init__(self, terminal: TextIO) -> None:
        self._out = Console(file=sys.stdout, highlight=False, soft_wrap=True)
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            console=Console(file=terminal),
            transient=True,
        )
        self._shown = self._bars.console.is_terminal
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Bars:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._hide()

    def working(self, told: str, what: str, fraction: float) -> None:
        """See `Progress`."""
        begins = what not in self._tasks
        if begins and fraction >= 1:
            return  # there was nothing to wait for
        if begins:
            self._tasks[what] = self._bars.add_task(told, total=1.0)
            if self._shown:
                self._bars.start()
            else:
                self.say(f"{told} …")
        self._bars.update(self._tasks[what], description=told, completed=fraction)
        if fraction >= 1:
            self._bars.remove_task(self._tasks.pop(what))
            if not self._tasks:
                self._hide()
            self.say(f"{what}: ready")

    def _hide(self) -> None:
        if self._shown:  # rich ends a line that it never began
            self._bars.stop()

    def say(self, sentence: str) -> None:
        """See `Progress`."""
        with suppress(OSError):  # who only tells how it stands ends no node: a disk may be full
            self._out.print(sentence, markup=False)
            self._out.file.flush()
