"""Requests counted at the door, and its drain."""

from __future__ import annotations

import pytest

from supervision.errors import (
    Draining,
    Overloaded,
)
from tether.http.admission import DoorAdmission


async def test_admission_counts_and_drains() -> None:
    admission = DoorAdmission(2)
    admission.enter()
    admission.enter()
    with pytest.raises(Overloaded):
        admission.enter()
    admission.leave()
    admission.enter()
    assert not await admission.drain(0.01)
    with pytest.raises(Draining):
        admission.enter()
    admission.leave()
    admission.leave()
    assert await admission.drain(1.0)
