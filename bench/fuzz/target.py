"""A target: one of our readers, what it may raise, and how much memory what it reads may take.

A new one is a module of this folder with a `TARGET`, and a row of `bench.fuzz.targets`.
"""

from __future__ import annotations

import logging
import os
import sys
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import structlog

from bench.fuzz.mutation import bytes_changed
from supervision.errors import TetherError
from supervision.telemetry import logs

SLOWEST_S = 1.0  # of processor time for one input, while allocations are traced
LONGEST = 1 << 20  # bytes of an input of a file or of a body, for which that holds as well


class Broken(AssertionError):
    """An input did what none may do; the sentence says what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """`read` takes any bytes, and raises nothing but `ours`. While it runs it holds at most
    `growth` bytes for each byte of the input, and `slack` besides. `seeds` are inputs that it reads
    gladly, which `change` mutates. No attribute of a class in `classes` may change, and no file or
    socket stays open."""

    name: str
    read: Callable[[bytes], object]
    seeds: tuple[bytes, ...]
    growth: int
    slack: int
    ours: tuple[type[Exception], ...] = (TetherError,)
    classes: tuple[type, ...] = ()
    change: Callable[[bytes, Random], bytes] = bytes_changed
    longest: int = 4096  # bytes of an input


_caught: list[str] = []  # what was logged with its traceback, and so wasn't foreseen


def quiet() -> None:
    """Nothing is written to the log. What is logged as an exception, where a reader goes on after
    an error that it doesn't know, counts as raised."""
    logs.configure(level="ERROR")
    logging.disable(logging.CRITICAL)
    structlog.configure(processors=[_heard])


def _heard(_logger: Any, _method: str, event: dict[str, Any]) -> str:
    if event.get("exc_info"):
        _caught.append(f"{event.get('event')}: {_latest()!r}")
    raise structlog.DropEvent


def _opened() -> set[str]:
    """The descriptors of this process; that of the listing is closed again."""
    return set(os.listdir("/proc/self/fd"))  # noqa: PTH208, which makes a Path of each


def _latest() -> BaseException | None:
    return sys.exc_info()[1]


def changes(target: Target, random: Random) -> bytes:
    """One of the seeds, changed a few times."""
    data = random.choice(target.seeds)
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        data = target.change(data, random)
    return data[: target.longest]


class Judge:
    """Gives inputs to a target and looks at what happens."""

    def __init__(self, target: Target) -> None:
        self._target = target
        for seed in target.seeds:  # what is made once, and kept, is made now
            self._read(seed)
            self._read(seed[:-1])
        self._held = [(cls, dict(vars(cls))) for cls in target.classes]

    def judge(self, data: bytes) -> None:
        """
        Raises:
            Broken: a property of the target doesn't hold for `data`.
        """
        target = self._target
        most = target.growth * len(data) + target.slack
        grown, took = self._measured(data)
        if grown > most:  # unless it was something that is made once, and kept
            grown, took = self._measured(data)
        if grown > most:
            raise Broken(f"{len(data)} bytes took {grown} of memory, and may take {most}")
        if took > SLOWEST_S:
            raise Broken(f"{len(data)} bytes took {took:.1f} s")
        for cls, held in self._held:
            if dict(vars(cls)) != held:
                raise Broken(f"an attribute of {cls.__name__} has changed")

    def _measured(self, data: bytes) -> tuple[int, float]:
        """Bytes and seconds that it takes to read `data`."""
        opened = _opened()
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            began = time.process_time()
            kept = self._read(data)
            took = time.process_time() - began
            grown = tracemalloc.get_traced_memory()[1] - before
        finally:
            tracemalloc.stop()
        del kept
        if left := _opened() - opened:
            raise Broken(f"it left {len(left)} open")
        if _caught:
            told = _caught[:]
            _caught.clear()
            raise Broken(f"it caught what nobody foresaw: {told[0]}")
        return grown, took

    def _read(self, data: bytes) -> Any:
        try:
            return self._target.read(data)
        except self._target.ours as error:
            try:
                str(error).encode()
            except UnicodeEncodeError:
                raise Broken(f"its error can't be sent: {ascii(str(error))[:200]}") from error
            return error
        except Exception as error:
            raise Broken(f"it raised {type(error).__name__}: {error}") from error
