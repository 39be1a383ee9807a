"""The parser of a shell's line: commands and their words. Pure."""

from __future__ import annotations

from typing import Final

VERBATIM: Final = frozenset({"eval"})  # commands that take all the rest of the line as it is
_CLOSING: Final = {"{": "}", "[": "]"}


class Misspelt(ValueError):
    """A quote or a bracket that never ends; the sentence says which."""


def commands(line: str) -> list[list[str]]:
    """The commands of `line`, each as its words.

    A semicolon ends a command, and `#` at the beginning of a word the line. Quotes and backslashes
    are a POSIX shell's; a word that begins with a bracket is JSON, and goes to the bracket that
    closes it, whatever lies in between. `eval` takes the rest of the line as it is.

    Raises:
        Misspelt: a quote or bracket isn't closed.
    """
    found: list[list[str]] = []
    words: list[str] = []
    at = 0
    while at < len(line):
        char = line[at]
        if char.isspace():
            at += 1
        elif char == ";":
            if words:
                found.append(words)
                words = []
            at += 1
        elif char == "#":
            break
        elif words and words[0] in VERBATIM and len(words) == 1:
            words.append(line[at:].strip())
            break
        elif char in _CLOSING:
            end = _bracketed(line, at)
            words.append(line[at:end])
            at = end
        else:
            word, at = _word(line, at)
            words.append(word)
    if words:
        found.append(words)
    return found


def _word(line: str, at: int) -> tuple[str, int]:
    word: list[str] = []
    while at < len(line) and not line[at].isspace() and line[at] != ";":
        char = line[at]
        if char == "\\" and at + 1 < len(line):
            word.append(line[at + 1])
            at += 2
        elif char in "'\"":
            text, at = _quoted(line, at)
            word.append(text)
        else:
            word.append(char)
            at += 1
    return "".join(word), at


def _quoted(line: str, begin: int) -> tuple[str, int]:
    """What stands between two quotes; in double ones a backslash keeps a quote or backslash."""
    quote, at = line[begin], begin + 1
    text: list[str] = []
    while at < len(line):
        char = line[at]
        if char == quote:
            return "".join(text), at + 1
        if char == "\\" and quote == '"' and line[at + 1 : at + 2] in ('"', "\\"):
            at += 1
            char = line[at]
        text.append(char)
        at += 1
    raise Misspelt(f"the quote at character {begin + 1} is never closed")


def _bracketed(line: str, begin: int) -> int:
    """Where the JSON that begins here ends."""
    open_: list[str] = []
    at = begin
    while at < len(line):
        char = line[at]
        if char == '"':
            at += 1
            while at < len(line) and line[at] != '"':
                at += 2 if line[at] == "\\" else 1
        elif char in _CLOSING:
            open_.append(_CLOSING[char])
        elif open_ and char == open_[-1]:
            open_.pop()
            if not open_:
                return at + 1
        at += 1
    raise Misspelt(f"the {line[begin]} at character {begin + 1} is never closed")
