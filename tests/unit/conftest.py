"""Which tests run on a virtual clock: they wait on timers and on nothing outside the process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from tests.support.virtual_clock import VirtualClockLoop

ON_VIRTUAL_CLOCK = {
    "test_engines_echo.py",
    "test_gateway_request_session.py",
    "test_gateway_unsettled.py",
    "test_http_admission.py",
    "test_http_body.py",
    "test_http_cancellation.py",
    "test_policies_actor_driver.py",
    "test_policies_async_driver.py",
    "test_reservation_settler.py",
    "test_supervision_liveness.py",
    "test_worker_health.py",
    "test_worker_run.py",
    "test_worker_run_store.py",
}


def pytest_asyncio_loop_factories(
    item: Any,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    if item.path.name in ON_VIRTUAL_CLOCK:
        return {"virtual clock": VirtualClockLoop}
    return {"asyncio": asyncio.new_event_loop}
