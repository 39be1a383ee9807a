"""What happened, as a digest and as its last lines."""

from __future__ import annotations

import asyncio
from collections import deque
from hashlib import blake2b

LINES = 60


class Trace:
    """Every event goes into the digest; with `whole` all lines are kept."""

    def __init__(self, *, whole: bool = False) -> None:
        self._hash = blake2b(digest_size=16)
        self.lines: deque[str] = deque(maxlen=None if whole else LINES)
        self.events = 0
        self.loop: asyncio.AbstractEventLoop | None = None

    def add(self, *what: object) -> None:
        """Something happened now."""
        now = 0.0 if self.loop is None else self.loop.time()
        line = f"{now:.6f} {' '.join(map(str, what))}"
        self._hash.update(line.encode())
        self.lines.append(line)
        self.events += 1

    @property
    def digest(self) -> str:
        """Of all that happened so far."""
        return self._hash.hexdigest()
