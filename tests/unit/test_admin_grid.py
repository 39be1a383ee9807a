"""Tables: on terminals and elsewhere, wide and narrow."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest

from tether.admin import grid
from tether.admin.grid import Grid

ID = "0198c1f2-7d5e-7c1a-9f00-0123456789ab"
ROWS = [
    ("id", "n", "called"),
    (ID, "5", "a name of many words that goes on"),
    ("short", "512", "x [bold]y[/] :smile:"),
]


def made(**more: object) -> Grid:
    return Grid(ROWS, headed=True, whole=(0,), right=(1,), **more)  # type: ignore[arg-type]


def test_without_a_terminal_it_is_as_wide_as_it_is() -> None:
    assert made().lines() == (
        f"id{' ' * 34}    n  called",
        f"{ID}    5  a name of many words that goes on",
        f"short{' ' * 31}  512  x [bold]y[/] :smile:",
    )
    long = "word " * 1000 + "end"
    assert Grid([("a", long)]).lines() == (f"a  {long}",)
    assert Grid([]).lines() == ()


@pytest.mark.parametrize("width", [1, 20, 50, 60, 80])
def test_what_is_whole_is_whole_at_any_width(width: int) -> None:
    lines = made().lines(width)
    assert lines[1].startswith(f"{ID}    5  a name")
    assert all(len(line) <= max(width, 36 + 2 + 3 + 2 + 12) for line in lines)
    words = " ".join(lines).replace("…", "CUT").split()
    assert [w for w in words if w in ROWS[1][2].split()] == ROWS[1][2].split()
    assert "CUT" not in words


def test_a_word_that_is_too_long_is_folded_not_cut() -> None:
    lines = Grid([("id", "w" * 100)], whole=(0,)).lines(24)
    assert "".join(lines).count("w") == 100


def test_indent() -> None:
    assert made(indent=2).lines()[1].startswith(f"  {ID}  ")
    assert made(indent=2).lines(10)[1].startswith(f"  {ID}  ")


def test_a_terminal_sees_styles_and_a_pipe_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    styled = Grid([("a", ("up", "green"))])
    styled.show()
    assert capsys.readouterr().out == "a  up\n"

    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Screen()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("COLUMNS", "40")
    styled.show()
    assert "\x1b[32mup" in screen.getvalue()
    assert grid.terminal_width() == 40


def test_rich_is_imported_when_something_is_drawn() -> None:
    program = (
        "import sys, tether.cli.keys, tether.cli.cluster, tether.cli.registry, tether.cli.ca;"
        "print('rich.table' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.stdout == "False\n", done.stderr
