"""A probe of a host: whether it is there, and nobody listens."""

from __future__ import annotations

import asyncio
from typing import Final

PROBE_S: Final = 2.0


async def refuses(host: str, port: int) -> bool:
    """Does the host answer that nobody listens there? False also while it doesn't answer at all."""
    try:
        async with asyncio.timeout(PROBE_S):
            _, writer = await asyncio.open_connection(host, port)
            writer.close()
    except ConnectionRefusedError:
        return True
    except (OSError, TimeoutError):
        pass
    return False
