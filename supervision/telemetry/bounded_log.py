"""Lines of the log about what others do: one of them may do it as often as he likes, and fills no
disk by that (`supervision.telemetry.line_budget`)."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from typing import Any, Final

from supervision.telemetry import logs
from supervision.telemetry.line_budget import LineBudget

EVERY_S: Final = 60.0
MOST: Final = 64  # lines in that time, of one module of one process


class BoundedLog:
    """A module's lines of that kind.

    Of each event and each `by`, who is whoever causes it as far as it is proved (a node, a user), a
    line in `every_s` seconds, and of all together `most`. The next one says how many were left out
    as `unsaid`.
    """

    def __init__(
        self,
        name: str,
        every_s: float = EVERY_S,
        most: int = MOST,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = logs.get(name)
        self._lines = LineBudget(every_s, most)
        self._clock = clock

    def info(self, event: str, by: Hashable, /, **fields: Any) -> None:
        self._say(self._log.info, event, by, fields)

    def warning(self, event: str, by: Hashable, /, **fields: Any) -> None:
        self._say(self._log.warning, event, by, fields)

    def error(self, event: str, by: Hashable, /, **fields: Any) -> None:
        self._say(self._log.error, event, by, fields)

    def exception(self, event: str, by: Hashable, /, **fields: Any) -> None:
        """With the traceback of the exception that is being handled."""
        self._say(self._log.exception, event, by, fields)

    def _say(
        self, say: Callable[..., object], event: str, by: Hashable, fields: dict[str, Any]
    ) -> None:
        unsaid = self._lines.take((event, by), self._clock())
        if unsaid is None:
            return
        if unsaid:
            fields["unsaid"] = unsaid
        say(event, **fields)
