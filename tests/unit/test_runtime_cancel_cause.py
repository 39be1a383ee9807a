"""The cause that a cancellation says."""

from __future__ import annotations

import asyncio

import pytest

from supervision.runtime.cancel_cause import CancelCause


@pytest.mark.parametrize("cause", CancelCause)
def test_a_cancellation_says_its_cause(cause: CancelCause):
    assert CancelCause.of(asyncio.CancelledError(cause)) is cause
    assert CancelCause.of(asyncio.CancelledError(str(cause))) is cause


@pytest.mark.parametrize("said", [(), ("stalled",), (7,), ([],)])
def test_a_cancellation_that_says_nothing_of_it_comes_from_within(said: tuple[object, ...]):
    assert CancelCause.of(asyncio.CancelledError(*said)) is CancelCause.CANCELLED
