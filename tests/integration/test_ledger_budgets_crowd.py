"""64 writers over three ledgers against one budget, while their connections are killed: it is never
overrun, and nobody is refused while the most that he may use still fits."""

from __future__ import annotations

import asyncio
import random
from typing import Final

import asyncpg
import msgspec

from actors.contracts import Maximum, Outcome, Reserve, Settle, Usage
from actors.contracts.budgets import BudgetPeriod, BudgetUnit, TenantBudget
from actors.errors import BudgetExceeded
from actors.stores import budgets, keys
from actors.stores.ledger import Ledger
from supervision.errors import Unavailable
from tests.support.messages import reserve

WRITERS: Final = 64
ROUNDS: Final = 6
AMOUNT: Final = 3000
HISTORY: Final = """
    CREATE TABLE history (n bigserial, spent bigint, reserved bigint, refused bigint);
    CREATE FUNCTION remember() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO history (spent, reserved, refused)
        VALUES (NEW.spent, NEW.reserved, NEW.refused);
        RETURN NULL;
    END $$;
    CREATE TRIGGER remember AFTER INSERT OR UPDATE ON budget_periods
        FOR EACH ROW EXECUTE FUNCTION remember();
"""


class Writer:
    """Reserves, answers, and settles, again and again, asking until it knows."""

    def __init__(self, number: int, ledger: Ledger) -> None:
        self.number = number
        self.ledger = ledger
        self.dice = random.Random(number)
        self.refused: list[tuple[int, str]] = []
        self.used = 0

    async def run(self) -> None:
        for turn in range(ROUNDS):
            output = self.dice.choice((10, 100, 400))
            most = Maximum(prompt_tokens=50, output_tokens=output, total_tokens=4000)
            token = f"{self.number} {turn}"
            msg = msgspec.structs.replace(
                reserve(token, claim_token=self.number * 1000 + turn + 1), most=most
            )
            try:
                await self._asked(msg)
            except BudgetExceeded as error:
                self.refused.append((50 + output, error.message))
                continue
            await asyncio.sleep(self.dice.random() * 0.01)
            outcome = self.dice.choice((Outcome.COMPLETED, Outcome.CANCELLED, Outcome.FAILED))
            usage = Usage(
                prompt_tokens=self.dice.randint(1, 50),
                completion_tokens=self.dice.randint(0, output),
            )
            if outcome is not Outcome.FAILED:
                self.used += usage.prompt_tokens + usage.completion_tokens
            await self._asked(
                Settle(job_id=msg.job.job_id, fencing_token=1, outcome=outcome, usage=usage)
            )

    async def _asked(self, msg: Reserve | Settle) -> None:
        while True:
            try:
                if isinstance(msg, Reserve):
                    await self.ledger.reserve(msg)
                else:
                    await self.ledger.settle(msg)
            except Unavailable:
                continue  # nobody knows, and the same may be asked again
            return


async def killing(connection: asyncpg.Connection, done: asyncio.Event) -> int:
    """Kills one backend of the ledgers after the other."""
    killed = 0
    while not done.is_set():
        await asyncio.sleep(0.03)
        killed += await connection.fetchval(
            "SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid() "
            "AND application_name = 'tether' AND query LIKE '%jobs%' ORDER BY random() LIMIT 1) p"
        )
    return killed


async def test_a_budget_that_many_share_is_exact_over_kills(
    dsn: str, connection: asyncpg.Connection
) -> None:
    await keys.create(connection, "acme")
    await connection.execute(HISTORY)
    budget = TenantBudget(
        tenant_id="acme", period=BudgetPeriod.TOTAL, unit=BudgetUnit.TOKENS, amount=AMOUNT
    )
    id = (await budgets.set_(connection, budget)).budget.id
    killer = await asyncpg.connect(dsn, server_settings={"application_name": "killer"})
    done = asyncio.Event()
    try:
        async with Ledger(dsn) as one, Ledger(dsn) as two, Ledger(dsn) as three:
            writers = [Writer(n, (one, two, three)[n % 3]) for n in range(WRITERS)]
            kills = asyncio.create_task(killing(killer, done))
            await asyncio.gather(*(writer.run() for writer in writers))
            done.set()
            assert await kills > 3
    finally:
        await killer.close()
    (state,), _ = await budgets.shown(connection, id=id)
    # at rest: nothing is reserved, and what is spent is what is billed, and what was used
    billed = await connection.fetchval(
        "SELECT coalesce(sum(prompt_tokens + output_tokens), 0) FROM ledger"
    )
    assert (state.reserved, state.spent) == (0, billed)
    assert billed == sum(writer.used for writer in writers)
    assert await connection.fetchval("SELECT count(*) FROM leases") == 0
    # in all of the history
    rows = await connection.fetch("SELECT spent, reserved, refused FROM history ORDER BY n")
    assert max(row["spent"] + row["reserved"] for row in rows) <= AMOUNT
    # nobody was refused while his most still fitted: what was left is in what he was told
    refused = [one for writer in writers for one in writer.refused]
    assert refused
    for most, message in refused:
        left = int(message.partition(" has ")[2].split()[0])
        assert left < most, message
        assert any(AMOUNT - row["spent"] - row["reserved"] <= left for row in rows)
    assert rows[-1]["refused"] == state.refused >= len(refused)
