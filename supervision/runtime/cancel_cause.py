"""The cause of a cancellation: why work ends that somebody has asked for."""

from __future__ import annotations

from enum import StrEnum


class CancelCause(StrEnum):
    """The word of the CancelledError that a handler, or a stream at its `yield`, hears."""

    CANCELLED = "cancelled"  # who asked wants no answer any more
    PEER_LOST = "peer_lost"  # the process that asked is gone
    STOPPING = "stopping"  # the actor that was asked ends
    LEAVING = "leaving"  # who asked goes on without it, and not because it wants no answer

    @classmethod
    def of(cls, error: BaseException) -> CancelCause:
        """What `error` says; one that says nothing of this comes from within, and cancels."""
        word = error.args[0] if error.args else None
        return next((cause for cause in cls if cause == word), cls.CANCELLED)

    @classmethod
    def told(cls, payload: bytes) -> CancelCause:
        """What the other side says with its cancellation: of these two one alone is news."""
        return cls.LEAVING if payload == cls.LEAVING.encode() else cls.CANCELLED
