"""What a command has found: aligned lines for people, objects for programs. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import msgspec

Row = Mapping[str, Any]


class Output(msgspec.Struct, frozen=True):
    """`lines` are for people, `rows` for programs, each an object of its own."""

    lines: tuple[str, ...] = ()
    rows: tuple[Row, ...] = ()

    def text(self, *, as_json: bool) -> str:
        """What is printed, each line ended."""
        if as_json:
            return "".join(f"{msgspec.json.encode(row).decode()}\n" for row in self.rows)
        return "".join(f"{line}\n" for line in self.lines)


def table(columns: Sequence[str], rows: Iterable[Row], *, empty: str) -> Output:
    """A table of these columns; the rows may hold more, for programs. `empty` is said in place of
    one without rows."""
    kept = tuple(rows)
    if not kept:
        return Output(lines=(empty,))
    cells = [[word(row.get(column)) for column in columns] for row in kept]
    numbers = {
        place
        for place, column in enumerate(columns)
        if all(isinstance(row.get(column), int | float) for row in kept)
    }
    return Output(lines=aligned([list(columns), *cells], right=numbers), rows=kept)


def fields(row: Row, *, hidden: Iterable[str] = ()) -> Output:
    """One object, a field a line; those that are empty, or `hidden`, are for programs only."""
    shown = {
        k: v for k, v in row.items() if k not in set(hidden) and v not in ("", None, (), [], {})
    }
    return Output(
        lines=aligned([[name, word(value)] for name, value in shown.items()]), rows=(row,)
    )


def said(sentence: str, **row: Any) -> Output:
    """A sentence."""
    return Output(lines=(sentence,), rows=({**row, "said": sentence},))


def together(shown: Iterable[Output]) -> Output:
    """One after the other."""
    parts = list(shown)
    return Output(
        lines=tuple(line for part in parts for line in part.lines),
        rows=tuple(row for part in parts for row in part.rows),
    )


def aligned(rows: Sequence[Sequence[str]], *, right: Iterable[int] = ()) -> tuple[str, ...]:
    """The rows with their columns below each other; those in `right` end below each other."""
    if not rows:
        return ()
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    ends = set(right)
    return tuple(
        "  ".join(
            cell.rjust(width) if place in ends else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def word(value: Any) -> str:
    """A value as a cell: booleans as yes or nothing, numbers short, lists with commas."""
    if value is None or value is False:
        return ""
    if value is True:
        return "yes"
    if isinstance(value, float):
        return f"{value:.10g}" if value == int(value) else f"{value:.3g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {word(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(word(inner) for inner in value)
    return " ".join(str(value).split("\n"))


def age(seconds: float) -> str:
    """A duration to the second, as `1 day, 2:03:04`."""
    return str(timedelta(seconds=int(seconds)))


def size(octets: float) -> str:
    """Bytes with a unit that leaves at most four digits."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if octets < 1024:
            return f"{octets:.0f} {unit}"
        octets /= 1024
    return f"{octets:.1f} TiB"


def plain(value: Any) -> Any:
    """A contract, or a part of one, as JSON's own kinds."""
    if isinstance(value, msgspec.Struct):
        return {name: plain(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    return value
