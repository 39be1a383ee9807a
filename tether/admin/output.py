"""The output of a command: lines and tables for people, objects for programs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

import msgspec

from tether.admin.grid import UNBOUNDED, Grid

Row = Mapping[str, Any]

#: Columns of what other commands take.
IDS: Final = frozenset(
    {"id", "pid", "job", "request", "tenant", "node", "worker", "model", "models", "address"}
)


class Output(msgspec.Struct, frozen=True):
    """`parts` are for people, `rows` for programs, each an object of its own."""

    parts: tuple[str | Grid, ...] = ()
    rows: tuple[Row, ...] = ()

    def text(self, *, as_json: bool, width: int = UNBOUNDED) -> str:
        """What is printed, each line ended; tables are folded at `width` columns."""
        if as_json:
            return "".join(f"{msgspec.json.encode(row).decode()}\n" for row in self.rows)
        return "".join(f"{line}\n" for line in self.lines(width))

    def lines(self, width: int = UNBOUNDED) -> Iterator[str]:
        """What people see."""
        for part in self.parts:
            if isinstance(part, Grid):
                yield from part.lines(width)
            else:
                yield part


def table(columns: Sequence[str], rows: Iterable[Row], *, empty: str, indent: int = 0) -> Output:
    """A table of these columns; the rows may hold more, for programs. `empty` is said in place of
    one without rows. Ids and numbers are whole at any width."""
    kept = tuple(rows)
    if not kept:
        return Output(parts=(" " * indent + empty,))
    cells = [[word(row.get(column)) for column in columns] for row in kept]
    numbers = {
        place
        for place, column in enumerate(columns)
        if all(isinstance(row.get(column), int | float) for row in kept)
    }
    whole = numbers | {place for place, column in enumerate(columns) if column in IDS}
    grid = Grid([columns, *cells], headed=True, whole=whole, right=numbers, indent=indent)
    return Output(parts=(grid,), rows=kept)


def fields(row: Row, *, hidden: Iterable[str] = ()) -> Output:
    """One object, a field a line; those that are empty, or `hidden`, are for programs only."""
    shown = {
        k: v for k, v in row.items() if k not in set(hidden) and v not in ("", None, (), [], {})
    }
    return Output(
        parts=(aligned([name, word(value)] for name, value in shown.items()),), rows=(row,)
    )


def said(sentence: str, **row: Any) -> Output:
    """A sentence."""
    return Output(parts=(sentence,), rows=({**row, "said": sentence},))


def together(shown: Iterable[Output]) -> Output:
    """One after the other."""
    every = list(shown)
    return Output(
        parts=tuple(part for one in every for part in one.parts),
        rows=tuple(row for one in every for row in one.rows),
    )


def aligned(
    rows: Iterable[Sequence[str]],
    *,
    whole: Collection[int] = (0,),
    right: Collection[int] = (),
    indent: int = 0,
) -> Grid:
    """The rows with their columns below each other, see `Grid`."""
    return Grid(rows, whole=whole, right=right, indent=indent)


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
