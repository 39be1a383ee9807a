"""xoscar's actor of `bench/recovery.py`; apart, because xoscar may not be installed."""

from __future__ import annotations

import os

import xoscar


class Echo(xoscar.Actor):  # type: ignore[misc]
    def who(self, number: int) -> tuple[int, int]:
        return number, os.getpid()
