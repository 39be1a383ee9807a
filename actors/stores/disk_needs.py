"""What PostgreSQL needs of its disk. Apart from the server, so that who only looks at the disk
doesn't load all that runs one."""

from __future__ import annotations

from typing import Final

NEEDED: Final = 16 << 20
"""Bytes without which it can't go on: a segment of its log (WAL)."""
