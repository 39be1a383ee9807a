"""Options of the door, checked when made."""

from __future__ import annotations

from typing import Any

import pytest

from tether.http import json_bounds
from tether.http.options import DoorOptions


@pytest.mark.parametrize(
    "wrong",
    [
        {"port": 70_000},
        {"max_requests": 0},
        {"max_body_bytes": json_bounds.MAX_BYTES + 1},
        {"default_deadline_s": 700.0},
        {"gateway_wait_s": 0.0},
        {"cors_origins": ("example.org",)},
        {"cors_origins": ("https://example.org/path",)},
    ],
)
def test_options_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        DoorOptions(**wrong)
