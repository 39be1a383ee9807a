"""What is billed, row by row of the table in docs/billing.md."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.contracts import Usage
from actors.core.outcome_billing import AnswerEnd, AnswerSoFar, billed, end_of_error
from actors.errors import WorkerLost
from supervision.errors import Cancelled, DeadlineExceeded, Draining, TetherError, Unavailable

PROMPT, COMPUTED, DELIVERED = 7, 20, 12


def so_far(
    *, streamed: bool, delivered: int = 0, begun: bool = True, computed: int = COMPUTED
) -> AnswerSoFar:
    counted = Usage(prompt_tokens=PROMPT, completion_tokens=computed)
    return AnswerSoFar(counted=counted, delivered=delivered, begun=begun, streamed=streamed)


STREAMED = so_far(streamed=True, delivered=DELIVERED)
BEFORE_THE_FIRST = so_far(streamed=True, computed=3)
WHOLE = so_far(streamed=False)
WHOLE_SLOW = so_far(streamed=False, computed=0)
QUEUED = so_far(streamed=True, begun=False, computed=0)
WHOLE_QUEUED = so_far(streamed=False, begun=False, computed=0)


@pytest.mark.parametrize(
    ("end", "answer", "tokens"),
    [
        pytest.param(AnswerEnd.COMPLETED, STREAMED, (PROMPT, COMPUTED), id="completed stream"),
        pytest.param(AnswerEnd.COMPLETED, WHOLE, (PROMPT, COMPUTED), id="completed whole"),
        pytest.param(AnswerEnd.LEFT, STREAMED, (PROMPT, DELIVERED), id="left while streaming"),
        pytest.param(AnswerEnd.LEFT, BEFORE_THE_FIRST, (PROMPT, 0), id="left before the first"),
        pytest.param(AnswerEnd.LEFT, WHOLE, (PROMPT, COMPUTED), id="whole hung up"),
        pytest.param(AnswerEnd.LEFT, QUEUED, (0, 0), id="left in the queue"),
        pytest.param(AnswerEnd.LEFT, WHOLE_QUEUED, (0, 0), id="whole left in the queue"),
        pytest.param(AnswerEnd.LATE, STREAMED, (PROMPT, DELIVERED), id="stream cut by deadline"),
        pytest.param(AnswerEnd.LATE, BEFORE_THE_FIRST, (0, 0), id="late before the first"),
        pytest.param(AnswerEnd.LATE, WHOLE_SLOW, (0, 0), id="whole late before the first"),
        pytest.param(AnswerEnd.LATE, WHOLE, (PROMPT, COMPUTED), id="whole cut by deadline"),
        pytest.param(AnswerEnd.LATE, QUEUED, (0, 0), id="late in the queue"),
        pytest.param(AnswerEnd.BROKEN, STREAMED, (0, 0), id="failed by us in the middle"),
        pytest.param(AnswerEnd.BROKEN, WHOLE, (0, 0), id="whole failed by us, or drained"),
    ],
)
def test_what_is_billed(end: AnswerEnd, answer: AnswerSoFar, tokens: tuple[int, int]) -> None:
    found = billed(end, answer)
    assert (found.prompt_tokens, found.completion_tokens) == tokens


@pytest.mark.parametrize(
    ("error", "end"),
    [
        (None, AnswerEnd.COMPLETED),
        (Cancelled("the client left"), AnswerEnd.LEFT),
        (DeadlineExceeded("its own"), AnswerEnd.LATE),
        (Draining("ours"), AnswerEnd.BROKEN),
        (WorkerLost("ours"), AnswerEnd.BROKEN),
        (Unavailable("ours"), AnswerEnd.BROKEN),
    ],
)
def test_who_has_ended_it(error: TetherError | None, end: AnswerEnd) -> None:
    assert end_of_error(error) is end


@given(
    end=st.sampled_from(AnswerEnd),
    computed=st.integers(0, 50),
    delivered=st.integers(0, 50),
    begun=st.booleans(),
    streamed=st.booleans(),
)
def test_never_more_than_was_computed_and_nothing_of_what_we_broke(
    end: AnswerEnd, computed: int, delivered: int, begun: bool, streamed: bool
) -> None:
    answer = so_far(streamed=streamed, delivered=delivered, begun=begun, computed=computed)
    found = billed(end, answer)
    assert found.completion_tokens <= computed
    assert found.prompt_tokens in (0, PROMPT)
    if end is AnswerEnd.BROKEN:
        assert found == Usage()
    elif streamed and end is not AnswerEnd.COMPLETED:
        assert found.completion_tokens == min(delivered, computed)
