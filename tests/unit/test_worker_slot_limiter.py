"""The slots of a worker: running, queued, shed."""

from __future__ import annotations

import pytest

from actors.worker.slot_limiter import QuotaGuard
from supervision.errors import (
    Overloaded,
)


def test_quota_runs_queues_and_sheds() -> None:
    guard: QuotaGuard[str] = QuotaGuard(slots=1, queue=2)
    assert guard.admit("a")
    assert not guard.admit("b")
    assert not guard.admit("c")
    with pytest.raises(Overloaded, match="all 1 slots run and 2 requests wait"):
        guard.admit("d")
    assert guard.forget("b")
    assert not guard.forget("b")
    assert guard.leave() == "c"
    assert (guard.running, guard.queued) == (1, 0)
    assert guard.leave() is None
    assert guard.running == 0
    with pytest.raises(ValueError, match="slots"):
        QuotaGuard(slots=0, queue=1)
