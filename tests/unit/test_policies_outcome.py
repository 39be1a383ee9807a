"""What an error means to the policies."""

from __future__ import annotations

import pytest

from actors.errors import ModelUnusable, WorkerLost
from supervision.errors import (
    BadRequest,
    Cancelled,
    DeadlineExceeded,
    Draining,
    Internal,
    Overloaded,
    PeerLost,
    RateLimited,
    Unavailable,
)
from supervision.policies import (
    Ended,
    outcome_of,
)


@pytest.mark.parametrize(
    ("error", "ended"),
    [
        (Overloaded("x"), Ended.REFUSED),
        (Draining("x"), Ended.REFUSED),
        (RateLimited("x"), Ended.REFUSED),
        (PeerLost("x"), Ended.FAILED),
        (WorkerLost("x"), Ended.FAILED),
        (Unavailable("x"), Ended.FAILED),
        (ConnectionResetError(), Ended.FAILED),
        (TimeoutError(), Ended.FAILED),
        (BadRequest("x"), Ended.REJECTED),
        (ModelUnusable("x"), Ended.REJECTED),
        (DeadlineExceeded("x"), Ended.FATAL),
        (Internal("x"), Ended.FATAL),
        (ZeroDivisionError(), Ended.FATAL),
        (Cancelled("x"), Ended.CANCELLED),
    ],
)
def test_what_an_error_means(error: Exception, ended: Ended) -> None:
    assert outcome_of(error).ended is ended


def test_retry_after_counts_from_now() -> None:
    assert outcome_of(Overloaded("x", retry_after_s=2.0), 10.0).until == 12.0


def test_a_peer_that_is_lost_is_a_loss() -> None:
    assert outcome_of(PeerLost("gone")).lost
    assert outcome_of(WorkerLost("gone"), lost=True).lost
    assert not outcome_of(WorkerLost("broke")).lost
