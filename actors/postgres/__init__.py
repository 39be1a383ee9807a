"""Postgres: the node's own PostgreSQL server, under a supervisor."""

from actors.postgres.postgres import Postgres, PostgresOptions

__all__ = ["Postgres", "PostgresOptions"]
