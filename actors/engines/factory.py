"""The factory of engines: by the row of `actors.core.engine_kinds` that a card names."""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module, util
from pathlib import Path
from typing import Protocol, TypedDict, Unpack, cast

from actors.contracts import ModelCard
from actors.core import engine_kinds
from actors.core.engine_kinds import EngineKind
from actors.engines.engine import Engine, EngineOptions
from actors.engines.weights import Progress, silent
from actors.errors import ModelUnusable


class EngineModule(Protocol):
    """The file of an engine. Big libraries are imported by neither function nor by the file itself,
    but by `Engine.open`: workers and `tether up` import the file to look after its weights."""

    def prepare(self, card: ModelCard, cache_dir: Path, progress: Progress = silent) -> Path | None:
        """See `factory.prepare`."""

    def create(self, card: ModelCard, options: EngineOptions) -> Engine:
        """See `factory.create`."""


class EngineHome(Protocol):
    """Finds the environment of an engine that has one of its own."""

    def is_there(self) -> bool:
        """Can it be run here?"""

    def python(self, ref: str) -> str:
        """The interpreter that runs it for the model `ref`.

        Raises:
            ModelUnusable: there is none.
        """


class Bounds(TypedDict, total=False):
    """Those of `EngineOptions`."""

    slots: int
    threads: int
    queue: int
    prefill_tokens: int
    prefix_bytes: int


def kind_of(card: ModelCard) -> EngineKind:
    """The row of the engine that `card` names.

    Raises:
        ModelUnusable: no engine has this name, or it takes no adapter and `card` has one.
    """
    kind = engine_kinds.find(card.engine)
    if kind is None:
        raise ModelUnusable(
            f"model {card.ref} asks for the engine {card.engine!r}; use "
            f"{_either(engine_kinds.NAMES)}"
        )
    if card.adapter and not kind.takes_adapters:
        raise ModelUnusable(
            f"model {card.ref} has an adapter, and the engine {card.engine!r} takes none; "
            f"use {_either(engine_kinds.TAKE_ADAPTERS)}, or remove it"
        )
    return kind


def create(card: ModelCard, *, cache_dir: Path, **bounds: Unpack[Bounds]) -> Engine:
    """The engine that `card.engine` names, in this process, not yet open. Big libraries are
    imported by `open`.

    Raises:
        ModelUnusable: see `kind_of`.
        ValueError: a bound is out of range.
    """
    return _module(kind_of(card)).create(card, EngineOptions(cache_dir=cache_dir, **bounds))


def prepare(card: ModelCard, cache_dir: Path, progress: Progress = silent) -> Path | None:
    """The checked folder or file of `card`'s weights, converted first where needed; None for an
    engine without weights. Blocks; quick when there is nothing to do.

    `progress` is told (what, fraction from 0 to 1), at least once per second of waiting.

    Raises:
        ModelUnusable: see `kind_of`; or a package or a file is missing, or the conversion failed.
    """
    return _module(kind_of(card)).prepare(card, cache_dir, progress)


def installed(kind: EngineKind) -> bool:
    """Is what it needs on this machine?"""
    if kind.home:
        return _home(kind).is_there()
    return not kind.needs or _has(kind.needs)


def interpreter(card: ModelCard) -> str:
    """The Python that runs the engine of `card`: ours, or that of the engine's own environment.

    Raises:
        ModelUnusable: see `kind_of`; or there is none.
    """
    kind = kind_of(card)
    return _home(kind).python(card.ref) if kind.home else sys.executable


def _module(kind: EngineKind) -> EngineModule:
    return cast(EngineModule, _beside(kind.module))


def _home(kind: EngineKind) -> EngineHome:
    return cast(EngineHome, _beside(kind.home))


def _beside(name: str) -> object:
    return import_module(f"{__package__}.{name}")


@cache
def _has(package: str) -> bool:
    return util.find_spec(package) is not None


def _either(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"
