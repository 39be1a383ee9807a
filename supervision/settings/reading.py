"""The reader of sections: every mistake is found at once, each with the path of its key. Pure."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterator
from enum import StrEnum
from typing import Any, TypeVar

import msgspec

from supervision.settings.problem import Problem
from supervision.settings.section import Section

_SECTION = TypeVar("_SECTION", bound=Section)
_INTERNAL = frozenset({"folder"})  # set by `load`, not by the file


def read_section(
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
    fields = {f.encode_name: f for f in msgspec.structs.fields(cls) if f.name not in _INTERNAL}
    for key in raw:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(fields)}"
            problems.append(Problem(_join(path, key), f"there is no such key; {hint}"))
    values: dict[str, Any] = {}
    for key, field in fields.items():
        where = _join(path, key)
        if key in raw:
            value = _value(types[field.name], raw[key], where, problems, listed)
            if value is not None:
                values[field.name] = value
        elif field.required:
            problems.append(Problem(where, "this is required; add it"))
    if any(field.required and field.name not in values for field in fields.values()):
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
        return read_section(kind, raw, path, problems, listed)
    item = typing.get_args(kind)[0] if typing.get_origin(kind) is tuple else None
    if isinstance(item, type) and issubclass(item, msgspec.Struct):
        if not isinstance(raw, list):
            problems.append(Problem(path, f"this must be a list: write [[{path}]]"))
            return None
        listed[path] = [
            read_section(item, entry, f"{path}[{number}]", problems, listed)
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
