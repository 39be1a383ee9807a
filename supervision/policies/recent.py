"""A window over the last calls, and how they ended. Pure."""

from __future__ import annotations

from collections import deque


class Recent:
    """The last `most` calls, none older than `window_s`: what both bounds leave is what is true
    *now*, whether a thousand calls end in a second or one in a minute. Over the window alone,
    half of the calls of a steady stream fail only after half of the window without an answer.
    """

    __slots__ = ("_calls", "_most", "_window_s", "bad")

    def __init__(self, most: int, window_s: float) -> None:
        self._calls: deque[tuple[float, bool]] = deque()
        self._most = most
        self._window_s = window_s
        self.bad = 0
        """Those of them that failed."""

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, now: float, bad: bool) -> None:
        """A call ended."""
        calls = self._calls
        if len(calls) >= self._most:
            self.bad -= calls.popleft()[1]
        calls.append((now, bad))
        self.bad += bad
        if calls[0][0] <= now - self._window_s:
            self.forget(now)

    def forget(self, now: float) -> None:
        """Forget those that are too old at `now`."""
        calls = self._calls
        oldest = now - self._window_s
        while calls and calls[0][0] <= oldest:
            self.bad -= calls.popleft()[1]

    def clear(self) -> None:
        self._calls.clear()
        self.bad = 0
