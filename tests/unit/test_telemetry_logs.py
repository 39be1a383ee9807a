"""A line that can't be written."""

from __future__ import annotations

import os
from contextlib import suppress

import pytest

from supervision.telemetry.logs import FEW, _Steady, few


def test_what_nobody_reads_fails_nobody() -> None:
    reads, writes = os.pipe()
    os.close(reads)
    broken = os.fdopen(writes, "w", buffering=1)
    steady = _Steady(broken)
    steady.write("to nobody\n")
    steady.flush()
    with suppress(OSError):
        broken.close()
    steady.write("to what is closed\n")
    steady.flush()


def test_what_is_read_is_written(capfd: pytest.CaptureFixture[str]) -> None:
    with os.fdopen(os.dup(2), "w") as stream:
        _Steady(stream).write("heard\n")
        _Steady(stream).flush()
    assert capfd.readouterr().err == "heard\n"


@pytest.mark.parametrize("count", [1, FEW, 1000])
def test_a_line_about_many_names_a_few(count: int) -> None:
    ids = [f"job-{number}" for number in range(count)]
    assert few("jobs", ids) == {"jobs": count, "first": ids[:FEW]}
