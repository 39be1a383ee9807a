"""Structured logs: one JSON object a line on standard error."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import IO, Any

# structlog.dev imports rich, if it finds it, for a console renderer that Tether doesn't use:
# 60 ms of every start of an actor. Where something else has imported rich, it stays.
_absent = "rich" not in sys.modules
if _absent:
    sys.modules["rich"] = None  # type: ignore[assignment]
import structlog  # noqa: E402

if _absent:
    del sys.modules["rich"]


LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
FEW = 5
_process: dict[str, Any] = {}  # a contextvar would reach only the task that has set it
_loggers: list[Any] = []  # one a module
_level = "INFO"


class _Steady:
    """A stream whose other end may be gone or full: then lines are lost, and nobody fails who only
    wanted to say something."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        from supervision.telemetry import disk  # which logs

        try:
            self._stream.write(text)
        except OSError as error:
            disk.unwritten("log", error)
        except ValueError:
            return  # it is closed: the process ends
        else:
            disk.written("log")

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()


def configure(level: str | None = None, **context: Any) -> None:
    """Set up structlog and the standard library's logging for this process, once at its start.
    `level` is by default what TETHER_LOG_LEVEL says, else INFO; `context` (node, path, pid) goes
    into every line."""
    global _level
    level = (level or os.environ.get("TETHER_LOG_LEVEL") or "INFO").upper()
    _level = level
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        _add_process,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[
            *shared,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level)),
        logger_factory=structlog.WriteLoggerFactory(file=_Steady(sys.stderr)),  # type: ignore[arg-type]
        cache_logger_on_first_use=True,
    )
    _process.update(context)
    _to_stderr(getattr(logging, level))


def level() -> str:
    """From which level on this process logs."""
    return _level


def set_level(wanted: str) -> str:
    """From now on this process logs from `wanted` on; returns the level before.

    Raises:
        ValueError: there is no such level.
    """
    global _level
    if wanted.upper() not in LEVELS:
        raise ValueError(f"there is no level {wanted!r}; it is one of {', '.join(LEVELS)}")
    before, _level = _level, wanted.upper()
    number = getattr(logging, _level)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(number))
    for logger in _loggers:
        logger.__dict__.pop("bind", None)  # where structlog has cached what the old level made
    logging.root.setLevel(number)
    return before


def _to_stderr(level: int) -> None:
    """As `logging.basicConfig(force=True)`, also where Thespian has put a root logger of its own
    that lets nobody exchange the handler which sends all to its logging process."""
    root = logging.root
    for handler in list(root.handlers):
        logging.Logger.removeHandler(root, handler)
        handler.close()
    own = logging.StreamHandler(sys.stderr)
    own.setFormatter(logging.Formatter(logging.BASIC_FORMAT))
    logging.Logger.addHandler(root, own)
    root.setLevel(level)


def _add_process(_logger: Any, _method: str, event: dict[str, Any]) -> dict[str, Any]:
    for key, value in _process.items():
        event.setdefault(key, value)
    return event


def few(what: str, ids: Sequence[str]) -> dict[str, Any]:
    """Fields of a line that speaks of many: how many `what`, and the first `FEW` of them by id."""
    return {what: len(ids), "first": list(ids[:FEW])}


def get(name: str) -> Any:
    """A logger whose lines carry `module=name`."""
    logger = structlog.get_logger(module=name)
    _loggers.append(logger)
    return logger
