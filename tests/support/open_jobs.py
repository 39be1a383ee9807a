"""What isn't over yet, as the database has it."""

from __future__ import annotations

from typing import NamedTuple

import asyncpg


class Open(NamedTuple):
    """Running jobs, leases, and leases that have run out."""

    running: int
    leases: int
    overdue: int


async def still_open(connection: asyncpg.Connection) -> Open:
    """Counted at this moment."""
    row = await connection.fetchrow(
        """
        SELECT (SELECT count(*) FROM jobs WHERE state = 'running'),
            (SELECT count(*) FROM leases),
            (SELECT count(*) FROM leases WHERE expires_at <= now())
        """
    )
    return Open(*row)
