"""A tenant's limit holds over several doors: the short version of `scripts/prove limits`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.limits_prove import doors, one

SECONDS, PER_MINUTE, TIMES = 4.0, 120, 20


@pytest.mark.timeout(600)
async def test_two_doors_are_one_limit(tmp_path: Path, measured: list[str]) -> None:
    async with doors(tmp_path, ("n1", "n2")) as here:
        for what in ("requests", "tokens"):
            seen, faults = await one(here, what, PER_MINUTE, SECONDS, TIMES)
            measured.append(f"limits over doors: {seen}")
            assert faults == []
