"""What happens when somebody leaves, once more within TLS: every test of `test_http_faults`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.integration.front_door import test_http_faults as plain
from tests.integration.front_door.test_http_faults import *  # noqa: F403
from tests.support.door_certificates import DoorAuthority
from tests.support.http_server import Served, served
from tests.support.raw_http import Raw
from tether.http.options import DoorOptions


@pytest.fixture(autouse=True)
def within_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All doors speak TLS, and all clients by hand."""
    authority = DoorAuthority(tmp_path)
    authority.renew()
    context = authority.client()
    files = {"certificate": str(authority.certificate), "key": str(authority.key)}

    @asynccontextmanager
    async def secured(
        node: Any = None, options: DoorOptions | None = None, storage: Any = None
    ) -> AsyncIterator[Served]:
        options = msgspec.structs.replace(options or DoorOptions(port=0), **files)
        async with served(node, options, storage) as door:
            yield door

    async def open_(cls: type[Raw], port: int, *, limit: int = 1 << 16) -> Raw:
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=limit, ssl=context))

    monkeypatch.setattr(plain, "served", secured)
    monkeypatch.setattr(Raw, "open", classmethod(open_))
