"""What the end of an attempt says about its worker."""

from __future__ import annotations

import pytest

from actors.errors import ContextExceeded, WorkerLost
from actors.gateway.attempts import verdict
from supervision.errors import (
    Cancelled,
    DeadlineExceeded,
    Internal,
    Overloaded,
    PeerLost,
    TetherError,
)


@pytest.mark.parametrize(
    ("error", "waited_s", "began", "expected"),
    [
        (None, 0.0, True, (True, False)),
        (ContextExceeded("x"), 0.0, False, (True, False)),
        (Cancelled("x"), 0.0, False, (True, True)),
        (Overloaded("x"), 0.0, False, (False, True)),
        (PeerLost("x"), 0.0, True, (False, True)),
        (WorkerLost("x"), 0.0, False, (False, False)),
        (Internal("x"), 0.0, True, (False, False)),
        (DeadlineExceeded("x"), 0.1, False, (True, True)),
        (DeadlineExceeded("x"), 60.0, True, (True, True)),
        (DeadlineExceeded("x"), 60.0, False, (False, False)),
    ],
)
def test_what_an_end_says_about_the_worker(
    error: TetherError | None, waited_s: float, began: bool, expected: tuple[bool, bool]
) -> None:
    assert verdict(error, waited_s=waited_s, began=began) == expected


def test_who_still_loads_the_model_has_not_hung() -> None:
    late = DeadlineExceeded("late")
    assert verdict(late, waited_s=60.0, began=False) == (False, False)
    assert verdict(late, waited_s=60.0, began=False, cold=True) == (True, True)
