"""What each user of the database may do: every statement that is sent, and what none may."""

from __future__ import annotations

import asyncio
import subprocess
import time
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio

from actors.contracts import BreakerState, Outcome, Reserve, Settle, Usage
from actors.core.ids import first_id, job_id
from actors.stores import breakers, keys
from actors.stores.database import Database, connect, migrate
from actors.stores.database_roles import DatabaseRole, grant, with_user
from actors.stores.embedded import Embedded
from actors.stores.jobs import Desk
from actors.stores.ledger import Ledger
from actors.stores.queries import QUERIES, sql
from supervision.errors import Internal
from tests.support.databases import in_database
from tests.support.messages import key as job_key
from tests.support.node_process import TETHER

GATEWAY, RESERVATION, REGISTRY, OPERATOR = DatabaseRole
ALL = frozenset(DatabaseRole)
#: Every statement of ours, and who may send it: nobody else.
SENDERS: dict[str, frozenset[DatabaseRole]] = {
    "settle_and_reserve": frozenset({RESERVATION}),
    "amend": frozenset({RESERVATION}),
    "contest": frozenset({RESERVATION}),
    "budgeted_tenants": frozenset({RESERVATION, REGISTRY, OPERATOR}),
    "open_within_budgets": frozenset({RESERVATION}),
    "hold_anew_within_budgets": frozenset({RESERVATION}),
    "refusing_budgets": frozenset({RESERVATION, REGISTRY, OPERATOR}),
    "renew": frozenset({RESERVATION}),
    "sweep": frozenset({RESERVATION}),
    "only_one": ALL,
    "prune_jobs": frozenset({RESERVATION}),
    "drop_ledger": frozenset({RESERVATION}),
    "extend_ledger": frozenset({RESERVATION}),
    "fetch_answer": frozenset({RESERVATION}),
    "bill_of_job": frozenset({RESERVATION, OPERATOR}),
    "prune_answers": frozenset({RESERVATION}),
    "shed_answers": frozenset({RESERVATION}),
    "forget_breakers": frozenset({RESERVATION}),
    "keep_breakers": frozenset({RESERVATION}),
    "lock_prices": ALL,
    "list_prices": frozenset({RESERVATION, REGISTRY, OPERATOR}),
    "show_prices": frozenset({RESERVATION, REGISTRY, OPERATOR}),
    "configured_prices": frozenset({RESERVATION, REGISTRY, OPERATOR}),
    "price_of_version": frozenset({RESERVATION, REGISTRY, OPERATOR}),
    "add_price": frozenset({RESERVATION, REGISTRY, OPERATOR}),
    "last_block": frozenset({RESERVATION, OPERATOR}),
    "mark_entries": frozenset({RESERVATION, OPERATOR}),
    "are_over": ALL,
    "entries_between": frozenset({RESERVATION, OPERATOR}),
    "next_entry": frozenset({RESERVATION, OPERATOR}),
    "add_block": frozenset({RESERVATION}),
    "add_leaves": frozenset({RESERVATION}),
    "drop_leaves": frozenset({RESERVATION}),
    "entries_of_job": frozenset({RESERVATION, OPERATOR}),
    "block_of_entry": frozenset({RESERVATION, OPERATOR}),
    "blocks_between": frozenset({RESERVATION, OPERATOR}),
    "leaves_of_block": frozenset({RESERVATION, OPERATOR}),
    "blocks_of_month": frozenset({RESERVATION, OPERATOR}),
    "entries_of_month": frozenset({RESERVATION, OPERATOR}),
    "ledger_span": frozenset({RESERVATION, OPERATOR}),
    "refund": frozenset({OPERATOR}),
    "statement": frozenset({OPERATOR}),
    "list_breakers": frozenset({RESERVATION, OPERATOR}),
    "list_leases": frozenset({RESERVATION, OPERATOR}),
    "trace_job": frozenset({OPERATOR}),
    "usage_of_tenant": frozenset({RESERVATION, OPERATOR}),
    "add_tenant": frozenset({OPERATOR}),
    "limit_tenant": frozenset({OPERATOR}),
    "tenant_limits": frozenset({GATEWAY, REGISTRY, OPERATOR}),
    "show_limits": frozenset({GATEWAY, REGISTRY, OPERATOR}),
    "change_limits": frozenset({REGISTRY, OPERATOR}),
    "add_key": frozenset({OPERATOR}),
    "find_key": frozenset({GATEWAY, OPERATOR}),
    "list_keys": frozenset({OPERATOR}),
    "revoke_key": frozenset({OPERATOR}),
    "lock_models": ALL,  # no table is in it
    "hold_artifacts": ALL,
    "collect_artifacts": ALL,
    "used_sources": frozenset({REGISTRY, OPERATOR}),
    "put_model": frozenset({REGISTRY}),
    "add_model_change": frozenset({REGISTRY}),
    "list_models": frozenset({REGISTRY, OPERATOR}),
    "show_models": frozenset({REGISTRY, OPERATOR}),
    "show_model_changes": frozenset({REGISTRY, OPERATOR}),
    "model_revision": frozenset({REGISTRY, OPERATOR}),
    "set_budget": frozenset({REGISTRY, OPERATOR}),
    "remove_budget": frozenset({REGISTRY, OPERATOR}),
    "show_budgets": frozenset({RESERVATION, REGISTRY, OPERATOR}),
    "show_budget_events": frozenset({RESERVATION, REGISTRY, OPERATOR}),
    "tell_budget_events": frozenset({RESERVATION}),
}
NOBODYS = (
    "CREATE TABLE mine (n integer)",
    "ALTER TABLE ledger ADD COLUMN more text",
    "DROP TRIGGER api_keys_changed ON api_keys",
    "TRUNCATE ledger",
    "DELETE FROM model_changes",
    "DELETE FROM api_keys",
    "DELETE FROM tether_migrations",
    "UPDATE api_keys SET hash = hash",
    "SET ROLE tether",
    "SET SESSION AUTHORIZATION tether",
    "CREATE ROLE friend SUPERUSER",
    "ALTER ROLE CURRENT_USER CREATEROLE",
    "COPY api_keys TO '/tmp/keys'",
    "SELECT pg_read_file('PG_VERSION')",
    "SELECT rolpassword FROM pg_authid",
)
OTHERS = {
    GATEWAY: (
        "INSERT INTO ledger (job_id) VALUES (gen_random_uuid())",
        "UPDATE jobs SET state = 'running'",
        "DELETE FROM leases",
        "SELECT * FROM ledger",
        "SELECT name, prefix FROM api_keys",
        "SELECT * FROM models",
        "SELECT bytes FROM answers",
        "UPDATE tenants SET requests_per_minute = NULL",
    ),
    RESERVATION: (
        "SELECT hash FROM api_keys",
        "SELECT id FROM tenants",
        "SELECT * FROM models",
        "UPDATE models SET stage = 'stable'",
        "UPDATE ledger SET micros = 0",
        "DELETE FROM ledger",
        "DELETE FROM ledger_blocks",
        "UPDATE prices SET output = 0",
        "DELETE FROM prices",
        "UPDATE ledger_leaves SET leaves = ''",
        "SELECT ledger_make_partition(now())",
        "UPDATE attempts SET node = ''",
        "UPDATE budgets SET amount = 0",
        "UPDATE budget_events SET share = 1",
    ),
    REGISTRY: (
        "SELECT hash FROM api_keys",
        "SELECT created_at FROM tenants",
        "INSERT INTO tenants (id) VALUES ('new')",
        "UPDATE tenants SET id = 'other'",
        "UPDATE prices SET output = 0",
        "SELECT * FROM jobs",
        "SELECT * FROM ledger",
        "UPDATE model_changes SET note = ''",
        "UPDATE budget_periods SET spent = 0",
        "DELETE FROM models",
    ),
    OPERATOR: (
        "SELECT bytes FROM answers",
        "UPDATE ledger SET output_tokens = 0",
        "DELETE FROM ledger",
        "INSERT INTO ledger (job_id) VALUES (gen_random_uuid())",
        "SELECT nextval('ledger_seq')",
        "DELETE FROM ledger_leaves",
        "SELECT ledger_drop_before(now())",
        "UPDATE jobs SET state = 'running'",
        "DELETE FROM jobs",
        "INSERT INTO breakers VALUES ('w', 'm', 'disabled')",
        "UPDATE models SET stage = 'stable'",
    ),
}


@pytest_asyncio.fixture
async def granted(dsn: str) -> str:
    """The DSN of the owner of a database in which the users have their rights."""
    owner = await connect(dsn)
    try:
        await grant(owner)
    finally:
        await owner.close()
    return dsn


async def _denied(connection: asyncpg.Connection, statement: str) -> bool:
    try:
        await connection.execute(statement)
    except asyncpg.InsufficientPrivilegeError:
        return True
    return False


def test_every_statement_has_its_senders() -> None:
    assert set(SENDERS) == set(QUERIES)


@pytest.mark.parametrize("role", DatabaseRole)
async def test_a_statement_is_for_its_senders_alone(granted: str, role: DatabaseRole) -> None:
    """The server is asked for a plan, for which it looks at the rights as for the deed."""
    connection = await connect(with_user(granted, role))
    try:
        for name, senders in SENDERS.items():
            plan = f"EXPLAIN (GENERIC_PLAN) {sql(name)}"
            if role in senders:
                await connection.execute(plan)
                continue
            assert await _denied(connection, plan), f"{role} may send {name}"
    finally:
        await connection.close()


@pytest.mark.parametrize("role", DatabaseRole)
async def test_what_is_of_others_is_denied(granted: str, role: DatabaseRole) -> None:
    connection = await connect(with_user(granted, role))
    try:
        assert await connection.fetchval("SELECT session_user") == role
        for statement in (*NOBODYS, *OTHERS[role]):
            assert await _denied(connection, statement), f"{role} may: {statement}"
    finally:
        await connection.close()


async def test_actors_do_their_work_as_their_users(granted: str) -> None:
    heard: asyncio.Queue[bytes] = asyncio.Queue()
    async with (
        Database(with_user(granted, OPERATOR)) as operator,
        Database(with_user(granted, GATEWAY)) as gateway,
    ):
        ready = asyncio.Event()
        watching = asyncio.create_task(
            keys.watch(
                with_user(granted, GATEWAY),
                key=heard.put_nowait,
                tenant=lambda _: None,
                everything=ready.set,
            )
        )
        await asyncio.wait_for(ready.wait(), 30)
        made = await keys.create(operator, "acme", "first")
        found = await keys.find(gateway, keys.digest(made.text))
        assert found is not None and found.tenant_id == "acme"
        assert await keys.revoke(operator, made.text) == [made.key.id]
        assert await asyncio.wait_for(heard.get(), 30) == keys.digest(made.text)
        watching.cancel()
    own = with_user(granted, RESERVATION)
    async with Ledger(own) as ledger:
        job = job_key(job_id=job_id())
        reserve = Reserve(job=job, worker_id="w", worker_address="n/1/1", deadline_s=30.0)
        reserved = await ledger.reserve(reserve)
        settle = Settle(
            job_id=job.job_id,
            fencing_token=reserved.assignment.fencing_token,
            outcome=Outcome.COMPLETED,
            usage=Usage(prompt_tokens=1, completion_tokens=1),
        )
        assert (await ledger.settle(settle)).first
    desk = await Desk.open(own, lease_s=60.0, timeout_s=30.0)
    before = first_id(time.time_ns() + 10**9)
    assert await desk.sweep(10) == (0, 0, 0)
    assert await desk.only_one(17)
    assert await desk.prune_jobs(before, 0.0, 10) == 1
    assert await desk.drop_ledger(0.0) == []
    desk.close()
    connection = await connect(own)
    said = BreakerState(worker_id="w", model_ref="m@1", mode="disabled", state="")
    await breakers.keep(connection, [said])
    assert await breakers.kept(connection) == (said,)
    await connection.close()


async def test_rights_that_were_given_beyond_are_taken_away(granted: str) -> None:
    owner = await connect(granted)
    await owner.execute(f"GRANT ALL ON ledger, api_keys TO {GATEWAY}")
    await owner.execute(f"GRANT UPDATE (hash) ON api_keys TO {GATEWAY}")
    assert await grant(owner)
    assert not await grant(owner), "they are what they should be, and nothing is written"
    await owner.execute("GRANT CREATE ON SCHEMA public TO public")
    assert await grant(owner)
    assert not await grant(owner)
    await owner.execute("REVOKE SELECT (hash) ON api_keys FROM tether_gateway")
    assert await grant(owner)
    await owner.close()
    connection = await connect(with_user(granted, GATEWAY))
    for statement in ("SELECT * FROM ledger", "UPDATE api_keys SET hash = hash"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)
    await connection.close()


async def test_a_schema_that_is_behind_is_left_to_its_owner(empty_dsn: str) -> None:
    with pytest.raises(Internal, match=r"has to be migrated.*tether db roles"):
        await Database(with_user(empty_dsn, REGISTRY)).open()
    with pytest.raises(Internal, match=r"has to be migrated.*tether db roles"):
        await Ledger(with_user(empty_dsn, RESERVATION)).open()


async def test_users_follow_a_new_password_of_the_owner(folder: Path) -> None:
    server = Embedded(folder / "pg", folder / "s")
    try:
        dsn = with_user(await server.start(), GATEWAY)
        await (await connect(dsn)).close()
        before = (folder / "pg" / "pgpass").read_text()
        owner = await connect(server.dsn)
        await owner.execute("ALTER ROLE tether PASSWORD 'another'")
        await owner.close()
        (folder / "pg" / "password").write_text("another")
        server.release()
        await server.start()
        await (await connect(dsn)).close()
        assert (folder / "pg" / "pgpass").read_text() != before
        assert (folder / "pg" / "pgpass").stat().st_mode & 0o777 == 0o600
    finally:
        await server.stop()


async def test_the_command_makes_them_on_a_server_of_ones_own(folder: Path) -> None:
    """As an owner who is no superuser; again, it changes nothing; without the right, it says so."""
    server = Embedded(folder / "pg", folder / "s")

    def command(owner: str, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*TETHER, "db", "roles", "--owner", owner, *words],
            cwd=folder, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    try:
        root = await connect(await server.start())
        for role in DatabaseRole:
            await root.execute(f"DROP ROLE {role}")
        await root.execute("CREATE ROLE own LOGIN CREATEROLE PASSWORD 'o'")
        await root.execute("CREATE ROLE weak LOGIN PASSWORD 'w'")
        await root.execute("CREATE DATABASE theirs OWNER own")
        base = in_database(with_user(server.dsn, "own"), "theirs").partition("&passfile")[0]
        own, weak = (base.replace("//own@", f"//{who}@") for who in ("own:o", "weak:w"))
        text = f"""
            [stores]
            postgres = "{base}&passfile={folder}/users"
            roles = true
            [[models]]
            name = "echo"
            engine = "echo"
            [[workers]]
            id = "w"
            models = ["*"]
        """
        (folder / "cluster.toml").write_text(text)
        refused = await asyncio.to_thread(command, weak)
        assert refused.returncode == 1
        assert "with the DSN of the schema's owner" in refused.stderr
        made = await asyncio.to_thread(command, own)
        assert made.returncode == 0, made.stderr
        assert "made tether_gateway" in made.stdout
        passwords = (folder / "users").read_text()
        assert (folder / "users").stat().st_mode & 0o777 == 0o600
        again = await asyncio.to_thread(command, own)
        assert "all users were there" in again.stdout, again.stderr
        assert (folder / "users").read_text() == passwords
        users = with_user(f"{base}&passfile={folder}/users", GATEWAY)
        async with Database(users) as gateway:
            assert await gateway.fetch(sql("find_key"), b"0" * 32) == []
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await gateway.execute("DELETE FROM ledger")
        renewed = await asyncio.to_thread(command, own, "--renew")
        assert renewed.returncode == 0, renewed.stderr
        assert (folder / "users").read_text() != passwords
        await (await connect(users)).close()
        printed = await asyncio.to_thread(command, own, "--print")
        await migrate(root)
        await root.execute(printed.stdout)
        await root.close()
    finally:
        await server.stop()
