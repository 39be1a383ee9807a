"""A pattern of names of layers, as an adapter's configuration holds them for `re`.

Whoever made the adapter wrote it, and `re` tries all ways in which a pattern could fit: of
`(a|aa)*b` they double with every character. So what is repeated must be one character, or a class
of them, and there are few repetitions; that is all that PEFT's own patterns need, and those of the
tools that write them. A pattern with six of them over a name of a hundred characters can still take
seconds, and is ended by the watchdog of its engine's process (`actors.engines.watchdog`).

Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from re import _constants as ops  # type: ignore[attr-defined]
from re import _parser  # type: ignore[attr-defined]
from typing import Any, Final

MOST_CHARS: Final = 2000
MOST_REPEATS: Final = 6

_REPEATS: Final = (ops.MAX_REPEAT, ops.MIN_REPEAT, ops.POSSESSIVE_REPEAT)
_ONE: Final = (ops.LITERAL, ops.NOT_LITERAL, ops.ANY, ops.IN)


def check(pattern: str) -> None:
    """
    Raises:
        ValueError: it is none that is tried here; the sentence says why.
    """
    if len(pattern) > MOST_CHARS:
        raise ValueError(f"it has {len(pattern)} characters, and may have {MOST_CHARS}")
    try:
        re.compile(pattern)
        re.compile(ending(pattern))
        repeats = list(_repeats(_parser.parse(pattern)))
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(str(error)) from None
    if not all(repeats):
        raise ValueError("it repeats more than one character, which can take for ever")
    if len(repeats) > MOST_REPEATS:
        raise ValueError(f"it repeats {len(repeats)} times, and may do so {MOST_REPEATS} times")


def ending(pattern: str) -> str:
    """The pattern of names whose end it is, from a dot on, or that it is as a whole."""
    return rf"(.*\.)?({pattern})$"


def _repeats(parsed: Any) -> Iterator[bool]:
    """Of every repetition that may be of several lengths: does it repeat one character?"""
    for op, argument in parsed:
        if op in _REPEATS:
            least, most, inner = argument
            if least != most:
                yield most == 1 or (len(inner) == 1 and inner[0][0] in _ONE)
            yield from _repeats(inner)
        elif op is ops.BRANCH:
            for branch in argument[1]:
                yield from _repeats(branch)
        elif op in (ops.ASSERT, ops.ASSERT_NOT):
            yield from _repeats(argument[1])
        elif op is ops.SUBPATTERN:
            yield from _repeats(argument[3])
        elif op is ops.ATOMIC_GROUP:
            yield from _repeats(argument)
        elif op is ops.GROUPREF_EXISTS:
            yield from _repeats(argument[1])
            yield from _repeats(argument[2] or ())
