"""What the tables hold of jobs that are not over."""

from __future__ import annotations

from typing import Any, NamedTuple

_COUNTED = """
SELECT (SELECT count(*) FROM jobs WHERE state = 'running'),
    (SELECT count(*) FROM leases),
    (SELECT count(*) FROM leases WHERE expires_at <= now())
"""


class Open(NamedTuple):
    """Running jobs, leases, and leases that have run out."""

    running: int
    leases: int
    overdue: int


async def still_open(connection: Any) -> Open:
    """Count what is not over yet."""
    return Open(*await connection.fetchrow(_COUNTED))
