"""Reading `cluster.toml`: every mistake is found at once, each with the path of its key. Pure."""

from __future__ import annotations

import difflib
import os
import tomllib
import types
import typing
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from tether.config.cluster_rules import cluster_violations
from tether.config.policy import ModelPolicyOptions
from tether.config.policy_rules import policy_violations
from tether.config.problem import ConfigInvalid, Problem
from tether.config.rules import model_violations, violations
from tether.config.sections import Config, ModelOptions

_SECTION = TypeVar("_SECTION", bound=msgspec.Struct)
_INTERNAL = frozenset({"folder"})  # set by `load`, not by the file


def load(path: Path, node: str | None = None) -> Config:
    """The configuration in the file at `path`; with `node`, as that node reads it: empty stands
    for the only one, or the one that TETHER_NODE names.

    Raises:
        ConfigInvalid: it cannot be read, is no TOML, or holds mistakes.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise _unusable(
            f"there is no {path}: name your file with --config, or copy cluster.toml"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise _unusable(f"{path} cannot be read: {error}") from None
    config = parse(text, folder=path.resolve().parent)
    return config if node is None else config.at(node or os.environ.get("TETHER_NODE", ""))


def parse(text: str, *, folder: Path) -> Config:
    """The configuration that `text` spells; relative paths start at `folder`.

    Raises:
        ConfigInvalid: with all mistakes.
    """
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _unusable(f"this is no valid TOML: {error}") from None
    problems: list[Problem] = []
    listed: dict[str, list[Any]] = {"models": [], "workers": [], "nodes": []}
    config = _section(Config, raw, "", problems, listed)
    if config is None:
        raise ConfigInvalid(tuple(problems))
    unread = {p.path for p in problems}
    found = [
        *violations(config, listed["models"], listed["workers"]),
        *cluster_violations(config, listed["nodes"], listed["workers"]),
    ]
    problems.extend(p for p in found if p.path not in unread)
    if problems:
        raise ConfigInvalid(tuple(problems))
    return msgspec.structs.replace(config, folder=folder)


def model(raw: object) -> ModelOptions:
    """One model as an entry of `[[models]]` spells it.

    Raises:
        ConfigInvalid: with all mistakes; their paths are the names of its fields.
    """
    problems: list[Problem] = []
    read = _section(ModelOptions, raw, "", problems, {})
    if read is not None:
        problems += model_violations(read, "")
    if read is None or problems:
        raise ConfigInvalid(tuple(problems))
    return read


def policy(raw: object) -> ModelPolicyOptions:
    """One `[models.policy]`.

    Raises:
        ConfigInvalid: with all mistakes.
    """
    problems: list[Problem] = []
    read = _section(ModelPolicyOptions, raw, "", problems, {})
    if read is not None:
        problems += policy_violations(read, "")
    if read is None or problems:
        raise ConfigInvalid(tuple(problems))
    return read


def _unusable(sentence: str) -> ConfigInvalid:
    return ConfigInvalid((Problem("", sentence),))


def _section(
    cls: type[_SECTION],
    raw: object,
    path: str,
    problems: list[Problem],
    listed: dict[str, list[Any]],
) -> _SECTION | None:
    """`raw` as a `cls`, field by field: msgspec alone would stop at the first mistake. A field
    that is wrong takes its default, so that the rest can still be judged; None if one without a
    default is missing or wrong. `listed` collects the entries of lists of sections by key."""
    if not isinstance(raw, dict):
        problems.append(Problem(path, f"this must be a table, not {_shown(raw)}"))
        return None
    types = typing.get_type_hints(cls, include_extras=True)
    fields = {f.name: f for f in msgspec.structs.fields(cls) if f.name not in _INTERNAL}
    for key in raw:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(fields)}"
            problems.append(Problem(_join(path, key), f"there is no such key; {hint}"))
    values: dict[str, Any] = {}
    for name, field in fields.items():
        where = _join(path, name)
        if name in raw:
            value = _value(types[name], raw[name], where, problems, listed)
            if value is not None:
                values[name] = value
        elif field.required:
            problems.append(Problem(where, "this is required; add it"))
    if any(field.required and name not in values for name, field in fields.items()):
        return None
    return cls(**values)


def _value(
    kind: Any, raw: object, path: str, problems: list[Problem], listed: dict[str, list[Any]]
) -> Any:
    """One value: a section, a list of sections, or a leaf; None when it is wrong, and for a section
    that isn't there where none needs to be."""
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        kind, *others = typing.get_args(kind)
        if raw is None and others == [types.NoneType]:
            return None
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return _section(kind, raw, path, problems, listed)
    item = typing.get_args(kind)[0] if typing.get_origin(kind) is tuple else None
    if isinstance(item, type) and issubclass(item, msgspec.Struct):
        if not isinstance(raw, list):
            problems.append(Problem(path, f"this must be a list: write [[{path}]]"))
            return None
        listed[path] = [
            _section(item, entry, f"{path}[{number}]", problems, listed)
            for number, entry in enumerate(raw)
        ]
        return tuple(entry for entry in listed[path] if entry is not None)
    if found := list(_unknown(kind, raw, path)):
        problems += found
        return None
    try:
        return msgspec.convert(raw, kind, strict=True)
    except msgspec.ValidationError as error:
        told = str(error).split(" - at ")[0].replace("`", "")
        problems.append(Problem(path, f"{told[0].lower()}{told[1:]}, but it is {_shown(raw)}"))
        return None


def _unknown(kind: Any, raw: object, path: str) -> Iterator[Problem]:
    """Words of a short list that aren't on it."""
    if typing.get_origin(kind) is typing.Annotated:
        kind = typing.get_args(kind)[0]
    if typing.get_origin(kind) is tuple and isinstance(raw, list):
        for number, entry in enumerate(raw):
            yield from _unknown(typing.get_args(kind)[0], entry, f"{path}[{number}]")
        return
    known = ""
    if typing.get_origin(kind) is typing.Literal and raw not in typing.get_args(kind):
        known = ", ".join(map(repr, typing.get_args(kind)))
    elif isinstance(kind, type) and issubclass(kind, StrEnum) and raw not in list(kind):
        known = ", ".join(repr(str(word)) for word in kind)
    if known:
        yield Problem(path, f"{_shown(raw)} is not known; it may be {known}")


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _shown(raw: object) -> str:
    text = repr(raw)
    return text if len(text) <= 60 else f"{text[:57]}..."
