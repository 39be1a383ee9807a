"""The error of a command that cannot do what it was asked."""

from __future__ import annotations


class CommandFailed(Exception):
    """`sentences` go to standard error, each on a line; the exit code is 1 when the world is in
    the way, and 2 when the command was called wrongly."""

    def __init__(self, *sentences: str, code: int = 1) -> None:
        super().__init__("; ".join(sentences))
        self.sentences = sentences
        self.code = code
