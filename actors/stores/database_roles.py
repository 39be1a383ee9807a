"""The users of the database: one for each kind of actor, with the least rights that it works with.

Each is a login of its own, not a role that is put on: who sends SQL can take a `SET ROLE` back. The
owner of the schema migrates and grants, and nothing else connects as it. What an actor may not do,
it can't be made to do by whoever gets hold of its connection: a gateway writes no bill, and the
registry reads no key.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any, Final
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import asyncpg

from actors.stores.database import MIGRATION_LOCK


class DatabaseRole(StrEnum):
    """The names of the users. Scheduler, roster, workers and doors have none, and don't connect."""

    GATEWAY = "tether_gateway"
    RESERVATION = "tether_reservation"
    REGISTRY = "tether_registry"
    OPERATOR = "tether_operator"
    """`tether keys`, `used` and the shell."""


#: What each may do, by table; who asks for a column names it. All that isn't here is denied.
RIGHTS: Final[Mapping[DatabaseRole, Mapping[str, str]]] = {
    DatabaseRole.GATEWAY: {
        "tether_migrations": "SELECT",
        "api_keys": "SELECT (id, tenant_id, hash, revoked_at, operator)",
        "tenants": "SELECT (id, requests_per_minute, tokens_per_minute, max_concurrency)",
    },
    DatabaseRole.RESERVATION: {
        "tether_migrations": "SELECT",
        "jobs": "SELECT, INSERT, UPDATE, DELETE",
        "attempts": "SELECT, INSERT, DELETE",
        "job_attempts": "SELECT",
        "leases": "SELECT, INSERT, UPDATE, DELETE",
        "ledger": "SELECT, INSERT",
        "ledger_seq": "USAGE, SELECT",
        "ledger_blocks": "SELECT, INSERT",
        "ledger_leaves": "SELECT, INSERT, DELETE",
        "prices": "SELECT, INSERT",  # those of its configuration
        "budgets": "SELECT",
        "budget_periods": "SELECT, INSERT, UPDATE",
        "budget_events": "SELECT, INSERT, UPDATE (told)",
        "answers": "SELECT, INSERT, UPDATE, DELETE",
        "breakers": "SELECT, INSERT, UPDATE, DELETE",
    },
    DatabaseRole.REGISTRY: {
        "tether_migrations": "SELECT",
        "models": "SELECT, INSERT, UPDATE",
        "model_changes": "SELECT, INSERT",
        # for operators over HTTP
        "tenants": (
            "SELECT (id, requests_per_minute, tokens_per_minute, max_concurrency), "
            "UPDATE (requests_per_minute, tokens_per_minute, max_concurrency)"
        ),
        "prices": "SELECT, INSERT",
        "api_keys": "SELECT (id, tenant_id, prefix)",
        "budgets": "SELECT, INSERT, UPDATE",
        "budget_periods": "SELECT, UPDATE (warns_at)",
        "budget_events": "SELECT, INSERT",
    },
    DatabaseRole.OPERATOR: {
        "tether_migrations": "SELECT",
        "tenants": "SELECT, INSERT, UPDATE",
        "api_keys": "SELECT, INSERT, UPDATE (revoked_at)",
        "jobs": "SELECT",
        "attempts": "SELECT",
        "job_attempts": "SELECT",
        "leases": "SELECT",
        "ledger": "SELECT",  # what it adds, a refund, goes by a function that knows the bill
        "ledger_blocks": "SELECT",
        "ledger_leaves": "SELECT",
        "prices": "SELECT, INSERT",
        "budgets": "SELECT, INSERT, UPDATE",
        "budget_periods": "SELECT, UPDATE (warns_at)",
        "budget_events": "SELECT, INSERT",
        "breakers": "SELECT",
        "models": "SELECT",
        "model_changes": "SELECT",
    },
}
#: The functions that are not for everybody: those that work with the rights of the schema's owner,
#: and those that reserve of budgets.
FUNCTIONS: Final[Mapping[str, frozenset[DatabaseRole]]] = {
    "ledger_make_partitions(integer)": frozenset({DatabaseRole.RESERVATION}),
    "ledger_drop_before(timestamptz)": frozenset({DatabaseRole.RESERVATION}),
    "open_within_budgets(uuid[], text[], text[], text[], bytea[], text[], text[], text[], "
    "integer[], bigint[], uuid[], integer[], float8, integer[], integer[], integer[], boolean[], "
    "integer[])": frozenset({DatabaseRole.RESERVATION}),
    "hold_anew_within_budgets(text[], text[], text[], bytea[], text[], integer[], bigint[], "
    "integer[], integer[], integer[], boolean[], integer[])": frozenset({DatabaseRole.RESERVATION}),
    "hold_within_budgets(uuid[], text[], integer[], integer[], integer[], integer[], boolean[], "
    "boolean[])": frozenset({DatabaseRole.RESERVATION}),
    "ledger_refund(uuid, integer, integer, integer, integer, integer, bigint, text, text)": (
        frozenset({DatabaseRole.OPERATOR})
    ),
}
_RIGHT: Final = re.compile(r"(\w+)(?: \(([^)]*)\))?(?:, |$)")
#: Who of $1 has which right, in the schema, by table, by column; and may everybody make tables?
_HELD: Final = """
    SELECT coalesce(r.rolname::text, 'public'), h.of_table, h.of_column, h.privilege_type
    FROM pg_namespace n CROSS JOIN LATERAL (
        SELECT '' AS of_table, '' AS of_column, s.grantee, s.privilege_type
        FROM aclexplode(n.nspacl) s
        UNION ALL
        SELECT c.relname::text, '', t.grantee, t.privilege_type
        FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) t WHERE c.relnamespace = n.oid
        UNION ALL
        SELECT c.relname::text, a.attname::text, t.grantee, t.privilege_type
        FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
            CROSS JOIN LATERAL aclexplode(a.attacl) t WHERE c.relnamespace = n.oid
        UNION ALL
        SELECT p.proname::text || '()', '', t.grantee, t.privilege_type
        FROM pg_proc p CROSS JOIN LATERAL aclexplode(p.proacl) t WHERE p.pronamespace = n.oid
    ) h LEFT JOIN pg_roles r ON r.oid = h.grantee
    WHERE n.nspname = current_schema()
        AND (r.rolname = ANY($1)
             OR h.grantee = 0 AND h.of_table = '' AND h.privilege_type = 'CREATE')
"""
_ATTRIBUTES: Final = "LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOINHERIT NOREPLICATION NOBYPASSRLS"


def with_user(dsn: str, user: str) -> str:
    """The DSN of another user of the same database. A password in `dsn` is not his: his is in the
    file that `passfile` names, or libpq's own."""
    parts = urlsplit(dsn)
    where = parts.netloc.rpartition("@")[2]
    kept = [(k, v) for k, v in parse_qsl(parts.query) if k not in ("user", "password")]
    query = urlencode(kept, quote_via=quote, safe="/")
    return urlunsplit(parts._replace(netloc=f"{quote(user, safe='')}@{where}", query=query))


def making(role: DatabaseRole, password: str = "") -> str:
    """The statement that makes this user.

    Raises:
        ValueError: the password can't be written into a statement.
    """
    return f"CREATE ROLE {role} {_ATTRIBUTES}{_with_password(password)}"


def granting(schema: str = "public") -> Iterator[str]:
    """The statements that give each user its rights, and take away all others; for the owner of
    the schema, and safe to repeat."""
    named = '"' + schema.replace('"', '""') + '"'
    tables = sorted({table for rights in RIGHTS.values() for table in rights})
    yield f"REVOKE CREATE ON SCHEMA {named} FROM PUBLIC"
    for role, rights in RIGHTS.items():
        for table in tables:
            yield f"REVOKE ALL ON {named}.{table} FROM {role}"
        yield f"REVOKE ALL ON SCHEMA {named} FROM {role}"
        yield f"GRANT USAGE ON SCHEMA {named} TO {role}"
        for table, what in rights.items():
            yield f"GRANT {what} ON {named}.{table} TO {role}"
        for function, callers in FUNCTIONS.items():
            yield f"REVOKE ALL ON FUNCTION {named}.{function} FROM PUBLIC, {role}"
            if role in callers:
                yield f"GRANT EXECUTE ON FUNCTION {named}.{function} TO {role}"


async def existing(connection: asyncpg.Connection) -> frozenset[DatabaseRole]:
    """The users that the server has."""
    names = [str(role) for role in DatabaseRole]
    rows = await connection.fetch("SELECT rolname FROM pg_roles WHERE rolname = ANY($1)", names)
    return frozenset(DatabaseRole(row["rolname"]) for row in rows)


async def make(
    connection: asyncpg.Connection,
    passwords: Mapping[DatabaseRole, str],
    *,
    renew: bool = False,
) -> tuple[DatabaseRole, ...]:
    """Make those of these users that the server lacks; with `renew` the others get these passwords.
    Returns who was made. Needs the right to make users."""
    there = await existing(connection)
    made = []
    for role, password in passwords.items():
        if role not in there:
            await connection.execute(making(role, password))
            made.append(role)
        elif renew:
            await connection.execute(f"ALTER ROLE {role}{_with_password(password)}")
    return tuple(made)


async def grant(connection: asyncpg.Connection) -> bool:
    """Give each user its rights on the migrated schema of this connection, which is its owner's,
    and no others; whether they weren't so. Writes nothing if they were: a disk may be full.

    Raises:
        asyncpg.UndefinedObjectError: the server lacks a user.
        asyncpg.InsufficientPrivilegeError: the connection isn't the owner's.
    """
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", MIGRATION_LOCK)
        names = [str(role) for role in DatabaseRole]
        held = {tuple(row) for row in await connection.fetch(_HELD, names)}
        if held == set(_wanted()):
            return False
        schema: Any = await connection.fetchval("SELECT current_schema()")
        for statement in granting(str(schema)):
            await connection.execute(statement)
        return True


def _wanted() -> Iterator[tuple[str, str, str, str]]:
    """`RIGHTS` as the server lists them: user, table, column, right."""
    for role, rights in RIGHTS.items():
        yield str(role), "", "", "USAGE"
        for table, what in rights.items():
            for right, columns in _RIGHT.findall(what):
                for column in columns.split(", "):
                    yield str(role), table, column, right
        for function, callers in FUNCTIONS.items():
            if role in callers:
                yield str(role), function.partition("(")[0] + "()", "", "EXECUTE"


def _with_password(password: str) -> str:
    if not password:
        return ""
    if not password.isascii() or not password.isprintable() or set("'\\") & set(password):
        raise ValueError("a password of the database has printable ASCII, no quotes or backslashes")
    return f" PASSWORD '{password}'"
