"""The cause of a cancellation: why work ends that somebody has asked for."""

from __future__ import annotations

from enum import StrEnum


class CancelCause(StrEnum):
    """The word of the CancelledError that a handler, or a stream at its `yield`, hears."""

    CANCELLED = "cancelled"  # who asked wants no answer any more
    PEER_LOST = "peer_lost"  # the process that asked is gone
    STOPPING = "stopping"  # the actor that was asked ends

    @classmethod
    def of(cls, error: BaseException) -> CancelCause:
        """What `error` says; one that says nothing of this comes from within, and cancels."""
        word = error.args[0] if error.args else None
        return next((cause for cause in cls if cause == word), cls.CANCELLED)
