"""The listener to a node's progress: how far it is while it starts, runs and stops."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told by the launcher; how it is shown is up to the front end."""

    def working(self, told: str, what: str, fraction: float) -> None:
        """`what` is under way, from 0 to 1, and done at 1; `told` says how it is now."""

    def say(self, sentence: str) -> None:
        """Something that whoever started the node should read."""
