"""How long a session may go on: its deadline, its client's return, and its worker's silence."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from actors.gateway.request_session import RequestSession
from supervision.errors import DeadlineExceeded, Unavailable

OVERTIME_S: Final = 0.5  # the worker knows the deadline too, and settles by it
GONE: Final = "the front door has stopped, or is lost, and its client did not come back"


def sweep_session(
    session: RequestSession, silent: Collection[str], now: float, *, grace_s: float
) -> None:
    """End it, or leave its worker, if its time is over. `silent` are the addresses of workers that
    were given up; `grace_s` is how long a client may be away whose front door was lost."""
    left_at, placement = session.reading.left_at, session.placement
    if now > placement.deadline + OVERTIME_S:
        session.fail(DeadlineExceeded("no complete answer before the deadline"))
    elif left_at is not None and now - left_at >= grace_s:
        session.fail(Unavailable(GONE))
    elif silent and session.worker_address in silent:
        session.desert()
    elif now > placement.silent_until:
        session.expire(now)
