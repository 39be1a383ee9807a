"""What of an answer is billed, by how it ended: what was delivered, and nothing of what we broke.

The table for readers is in docs/billing.md; this is the one decision behind it. A worker takes it
for its own runs, and a gateway where it closes a job in a worker's place.

Pure.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from actors.contracts import Usage
from supervision.errors import Cancelled, DeadlineExceeded, TetherError


class AnswerEnd(StrEnum):
    """How the computation of an answer came to its end."""

    COMPLETED = "completed"  # its last chunk was there to be taken
    LEFT = "left"  # the client hung up
    LATE = "late"  # the client's own deadline passed
    BROKEN = "broken"  # by us: a fault, a stop, a lost part


class AnswerSoFar(msgspec.Struct, frozen=True, kw_only=True):
    """What there is of an answer at its end. `counted` is what was computed of it, by whomever;
    `delivered` output tokens were handed out to a reader; `begun`: an engine has begun with the
    prompt. A `streamed` answer reaches its reader as it is computed, any other as a whole at its
    end."""

    counted: Usage
    delivered: int
    begun: bool
    streamed: bool


def billed(end: AnswerEnd, answer: AnswerSoFar) -> Usage:
    """What is billed; nothing: an empty `Usage`.

    A completed answer is billed whole, also if its last chunk was taken by nobody in the end.
    Where the client has ended it, by leaving or by its deadline, the prompt is billed, and of a
    stream what was handed out, of a whole answer what was computed: who decides when to leave
    doesn't decide whether to pay. A deadline that passes before there is any token is free, for we
    were as slow as that. What we broke is free, and so is what never began.
    """
    if end is AnswerEnd.COMPLETED:
        return answer.counted
    if end is AnswerEnd.BROKEN or not (answer.begun or answer.delivered):
        return Usage()
    counted = answer.counted
    output = counted.completion_tokens
    if answer.streamed:
        output = min(output, answer.delivered)
    if end is AnswerEnd.LATE and not output:
        return Usage()
    reasoning = min(counted.reasoning_tokens, output)
    return msgspec.structs.replace(counted, completion_tokens=output, reasoning_tokens=reasoning)


def end_of_error(error: TetherError | None) -> AnswerEnd:
    """How an answer came to its end that an error has ended; without one it is complete."""
    if error is None:
        return AnswerEnd.COMPLETED
    if isinstance(error, Cancelled):
        return AnswerEnd.LEFT
    if isinstance(error, DeadlineExceeded):
        return AnswerEnd.LATE
    return AnswerEnd.BROKEN
