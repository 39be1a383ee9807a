"""Which settles are billed."""

from __future__ import annotations

import pytest

from actors.contracts import Outcome, Settle, Usage
from actors.stores.bill import is_billed

USED = Usage(prompt_tokens=3, completion_tokens=2)


@pytest.mark.parametrize(
    ("outcome", "usage", "emitted", "counts"),
    [
        (Outcome.COMPLETED, USED, 2, True),
        (Outcome.COMPLETED, Usage(), 0, True),
        (Outcome.CANCELLED, USED, 2, True),
        (Outcome.CANCELLED, Usage(prompt_tokens=3), 0, True),
        (Outcome.CANCELLED, Usage(), 0, False),
        (Outcome.FAILED, USED, 2, True),
        (Outcome.FAILED, USED, 0, False),  # as a release before this one says it
        (Outcome.FAILED, Usage(), 0, False),
    ],
)
def test_what_counts(outcome: Outcome, usage: Usage, emitted: int, counts: bool) -> None:
    settle = Settle(job_id="j", fencing_token=1, outcome=outcome, usage=usage, emitted=emitted)
    assert is_billed(settle) is counts
