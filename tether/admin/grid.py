"""Tables for people: rows below each other, drawn by rich without lines around them.

A terminal that is too narrow folds what may be folded. What is there to be copied, such as an id,
stays whole at any width, and nothing is cut: a program that reads the output, or a person, gets all
of it. rich is imported when the first is drawn, as that takes 60 ms.
"""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, TextIO

if TYPE_CHECKING:
    from rich.console import Console

UNBOUNDED: Final = 1 << 20  # columns of what is no terminal
_GAP: Final = 2  # between two columns
_LEAST: Final = 12  # of a column that is folded

Cell = str | tuple[str, str]  # the text, or the text and a style of rich's, such as "green"


class Grid:
    """Cells in columns. Those in `whole` are never folded, those in `right` end below each other;
    the first row of a grid that is `headed` says what they are."""

    def __init__(
        self,
        rows: Iterable[Sequence[Cell]],
        *,
        headed: bool = False,
        whole: Collection[int] = (),
        right: Collection[int] = (),
        indent: int = 0,
    ) -> None:
        self._rows = [tuple(row) for row in rows]
        self._headed = headed
        self._whole = frozenset(whole)
        self._right = frozenset(right)
        self._indent = indent

    def lines(self, width: int = UNBOUNDED) -> tuple[str, ...]:
        """The lines, without styles, at most `width` wide if what is whole has room in that."""
        text = io.StringIO()
        self._draw(console(text, self._room(width)))
        return tuple(line.rstrip() for line in text.getvalue().splitlines())

    def show(self) -> None:
        """To standard output: with styles and folded on a terminal, plain lines elsewhere."""
        if sys.stdout.isatty():
            self._draw(console(sys.stdout, self._room(terminal_width())))
        else:
            print("".join(f"{line}\n" for line in self.lines()), end="", flush=True)

    def _draw(self, on: Console) -> None:
        from rich.table import Table
        from rich.text import Text

        if not self._rows:
            return
        head, rows = (self._rows[0], self._rows[1:]) if self._headed else ((), self._rows)
        table = Table(
            box=None, show_header=self._headed, pad_edge=False, padding=(0, _GAP, 0, 0)
        )  # fmt: skip
        for place in range(len(self._rows[0])):
            options: dict[str, Any] = {
                "no_wrap": place in self._whole,
                "overflow": "fold",
                "justify": "right" if place in self._right else "left",
            }
            table.add_column(Text(_text(head[place])) if head else "", **options)
        for row in rows:
            table.add_row(*(Text(_text(cell), style=_style(cell)) for cell in row))
        if self._indent:
            from rich.padding import Padding

            on.print(Padding(table, (0, 0, 0, self._indent), expand=False))
        else:
            on.print(table)

    def _room(self, width: int) -> int:
        """`width`, or more if the columns that are whole, and a little of the others, need it."""
        if not self._rows or width >= UNBOUNDED:
            return width
        from rich.cells import cell_len

        needed = self._indent - _GAP
        for place in range(len(self._rows[0])):
            widest = max(cell_len(_text(row[place])) for row in self._rows)
            needed += _GAP + (widest if place in self._whole else min(widest, _LEAST))
        return max(width, needed)


def terminal_width() -> int:
    """Of standard output; without bound where that is no terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else UNBOUNDED


def console(file: TextIO | None = None, width: int | None = None) -> Console:
    """What rich draws on, standard output by default: never 80 columns because nobody knows
    better."""
    from rich.console import Console

    return Console(
        file=file or sys.stdout, width=width or terminal_width(), highlight=False, emoji=False
    )


def _text(cell: Cell) -> str:
    return cell if isinstance(cell, str) else cell[0]


def _style(cell: Cell) -> str:
    return "" if isinstance(cell, str) else cell[1]
