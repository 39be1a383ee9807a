"""Listeners of a session, and what becomes of it without one."""

from __future__ import annotations

import asyncio

import pytest

from actors.gateway.session_reading import Deserted, SessionReading
from supervision.runtime.cancel_cause import CancelCause

# ---- reading


@pytest.mark.parametrize(
    ("why", "explicit", "left"),
    [
        (None, True, Deserted.ENDS),
        (CancelCause.CANCELLED, True, Deserted.ENDS),
        (CancelCause.PEER_LOST, False, Deserted.BREAKS),
        (CancelCause.LEAVING, False, Deserted.BREAKS),
        (CancelCause.LEAVING, True, Deserted.BREAKS),
        (CancelCause.PEER_LOST, True, Deserted.WAITS),
        (CancelCause.STOPPING, False, Deserted.STAYS),
    ],
)
async def test_what_becomes_of_a_session_that_its_last_listener_leaves(
    why: CancelCause | None, explicit: bool, left: Deserted
) -> None:
    reading = SessionReading(asyncio.get_running_loop())
    reading.enter()
    reading.enter()
    assert reading.leave(why, explicit=explicit, now=5.0) is None, "another one listens"
    assert reading.leave(why, explicit=explicit, now=5.0) is left
    assert reading.left_at == (5.0 if left is Deserted.WAITS else None)
    reading.enter()
    assert reading.left_at is None
