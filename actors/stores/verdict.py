"""The verdict on a reserve whose retry token is taken: the words of the query `contest`."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from actors.contracts import JobState


class Verdict(StrEnum):
    """What the job of a retry token is to the reserve that found it."""

    CONFLICT = "conflict"  # it is of another body
    FREE = "free"  # the reserve names no worker, and this is no job to be led to
    OURS = "ours"  # it was given by this very reserve, whose answer was lost
    GIVE = "give"  # it goes to the asked worker, unless somebody else is faster
    ANEW = "anew"  # it is over, and may have to reserve of budgets before it is given
    LED = "led"  # it runs, and its claim is the asker's from here on
    RUNNING = "running"  # it runs, under a claim that the asker doesn't hold
    COMPLETED = "completed"  # it was answered in full

    @property
    def state(self) -> JobState:
        """What the asker is told. A conflict is raised instead."""
        return _STATES[self]


_STATES: Final = {
    Verdict.FREE: JobState.FREE,
    Verdict.OURS: JobState.NEW,
    Verdict.GIVE: JobState.NEW,
    Verdict.ANEW: JobState.NEW,
    Verdict.LED: JobState.RUNNING,
    Verdict.RUNNING: JobState.RUNNING,
    Verdict.COMPLETED: JobState.COMPLETED,
}
