"""The timeout of an attempt."""

from __future__ import annotations

from supervision.policies import (
    Go,
    Timeout,
    TimeoutOptions,
)


def test_an_attempts_timeout_begins_anew_with_each() -> None:
    timeout = Timeout(TimeoutOptions(attempt_s=2))
    assert timeout.admit(0.0) == Go(2.0)
    assert timeout.admit(5.0, 6.0) == Go(6.0)
    assert timeout.admit(9.0) == Go(11.0)
