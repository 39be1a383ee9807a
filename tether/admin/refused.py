"""The error of a shell command that can't be done."""

from __future__ import annotations


class CommandRefused(Exception):
    """One sentence that says why and what to do; `code` is the exit code of a script: 1 when it
    could not be done, 2 when it was asked wrongly."""

    def __init__(self, sentence: str, *, code: int = 1) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.code = code
