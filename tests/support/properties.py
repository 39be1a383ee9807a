"""How many examples a property is tried with: few at every change, `MANY` times as many in
`scripts/prove properties`, which sets `TETHER_PROPERTIES`."""

from __future__ import annotations

import os
from typing import Final

MANY: Final = 20
THOROUGH: Final = os.environ.get("TETHER_PROPERTIES", "") not in ("", "0")


def examples(number: int) -> int:
    """`number` as a change is tested with, or as many as a proof takes."""
    return number * MANY if THOROUGH else number
