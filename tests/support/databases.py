"""Names of databases on the test run's server (see conftest.py)."""

from __future__ import annotations

TEMPLATE = "migrated"


def in_database(dsn: str, name: str) -> str:
    return dsn.replace("@/tether?", f"@/{name}?")
