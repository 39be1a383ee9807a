"""Which tests run on a clock that leaps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from tests.support.virtual_clock import VirtualClockLoop

LEAPING = {
    "test_engine_echo.py",
    "test_gateway_session.py",
    "test_http_request.py",
    "test_policies_drivers.py",
    "test_reservation_settler.py",
    "test_supervision_liveness.py",
    "test_worker_parts.py",
}


def pytest_asyncio_loop_factories(
    item: Any,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    if item.path.name in LEAPING:
        return {"leaping": VirtualClockLoop}
    return {"asyncio": asyncio.new_event_loop}
