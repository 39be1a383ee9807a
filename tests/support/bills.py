"""Bills as an operator finds them in the database, of this release and of the one before, held
against what clients were given."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from tests.support.buyer import Ended, Purchase
from tests.support.node_process import until

_NEAR_S: Final = 1.0  # from a kill to what it takes down
_COLUMNS: Final = """
    SELECT table_name || '.' || column_name FROM information_schema.columns
    WHERE table_schema = 'public'
"""
_BILLS: Final = """
    SELECT j.retry_token AS token, count(DISTINCT j.id) AS jobs, min(j.outcome) AS outcome,
        count(l.job_id) AS entries, {charges} AS charges,
        coalesce(sum(l.prompt_tokens), 0) AS prompt, coalesce(sum(l.{output}), 0) AS output,
        extract(epoch FROM coalesce(max(j.settled_at), now()) - min(j.created_at)) AS lived_s,
        {money}
    FROM jobs j LEFT JOIN ledger l ON l.job_id = j.id {priced}
    WHERE j.retry_token = ANY($1::text[]) GROUP BY 1
"""
_BEFORE: Final = {  # of the release that knew tokens alone, one row a job
    "output": "completion_tokens", "charges": "count(l.job_id)", "priced": "",
    "money": "0::bigint AS micros, 0::bigint AS owed",
}  # fmt: skip
_NOW: Final = {
    "output": "output_tokens",
    "charges": "count(*) FILTER (WHERE l.kind = 'charge')",
    "priced": "LEFT JOIN prices p ON p.version = j.price",
    "money": """coalesce(sum(l.micros), 0)::bigint AS micros,
        coalesce(max(p.request) FILTER (WHERE l.job_id IS NOT NULL) + ceil((
            sum(l.prompt_tokens - l.cached_tokens) * max(p.prompt)
            + sum(l.cached_tokens) * max(p.cached) + sum(l.reasoning_tokens) * max(p.reasoning)
            + sum(l.output_tokens - l.reasoning_tokens) * max(p.output)) / 1000000.0), 0)::bigint
            AS owed""",
}


@dataclass(frozen=True)
class Bill:
    """What is charged for one retry token: the sums of its entries. `micros` is the money that
    they say, `owed` what their tokens cost at the price of the job."""

    token: str
    jobs: int
    outcome: str | None
    entries: int
    charges: int
    prompt: int
    output: int
    lived_s: float
    micros: int = 0
    owed: int = 0


@dataclass(frozen=True)
class Rest:
    """What must be nothing when nothing runs. `reserved` is of budgets, tokens or money;
    `adrift` counts the periods whose counter is not what the ledger says."""

    leases: int = 0
    running: int = 0
    reserved: int = 0
    adrift: int = 0

    @property
    def quiet(self) -> bool:
        return not (self.leases or self.running or self.reserved or self.adrift)


class Books:
    """Reads for whoever may read all."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._columns: set[str] = set()

    async def fetch(self, statement: str, *args: Any) -> list[asyncpg.Record]:
        """Waits for a server that is being started."""
        found: list[list[asyncpg.Record]] = []

        async def told() -> bool:
            try:
                connection = await asyncpg.connect(self._dsn, timeout=10)
            except (OSError, asyncpg.PostgresError, TimeoutError):
                return False
            try:
                found.append(await connection.fetch(statement, *args))
            except (OSError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError):
                return False
            finally:
                connection.terminate()
            return True

        await until(told, "the database answers")
        return found[0]

    async def has(self, column: str) -> bool:
        """`table.column`."""
        if not self._columns:
            self._columns = {row[0] for row in await self.fetch(_COLUMNS)}
        return column in self._columns

    async def of(self, tokens: Iterable[str]) -> dict[str, Bill]:
        """Those that there are, by retry token."""
        told = _NOW if await self.has("ledger.output_tokens") else _BEFORE
        rows = await self.fetch(_BILLS.format(**told), list(tokens))
        return {row["token"]: Bill(**{**row, "lived_s": float(row["lived_s"])}) for row in rows}

    async def rest(self) -> Rest:
        """As it is now."""
        reserved = adrift = "0"
        if await self.has("budget_periods.reserved"):
            reserved = "(SELECT coalesce(sum(reserved), 0) FROM budget_periods)"
            adrift = _ADRIFT
        (row,) = await self.fetch(
            f"SELECT (SELECT count(*) FROM leases), (SELECT count(*) FROM jobs "
            f"WHERE state <> 'settled'), ({reserved})::bigint, ({adrift})::bigint"
        )
        return Rest(*row)

    async def at_rest(self, patience_s: float) -> tuple[Rest, float]:
        """What there is when all of it is nothing, or after so many seconds, and when that was."""
        began = time.monotonic()
        seen = Rest(leases=-1)

        async def quiet() -> bool:
            nonlocal seen
            seen = await self.rest()
            return seen.quiet or time.monotonic() - began > patience_s

        await until(quiet, "the database tells what is left", patience_s + 120)
        return seen, time.monotonic() - began


# A budget's counter, beside the entries of its tenant that fell into its period.
_ADRIFT: Final = """
    SELECT count(*) FROM (
        SELECT p.id, p.spent, coalesce(sum(CASE WHEN b.unit = 'micros' THEN l.micros
            ELSE l.prompt_tokens + l.output_tokens END), 0) AS billed
        FROM budget_periods p JOIN budgets b ON b.id = p.budget_id
        LEFT JOIN jobs j ON p.id = ANY (j.budgets) LEFT JOIN ledger l ON l.job_id = j.id
        GROUP BY p.id, b.unit) t WHERE t.spent <> t.billed
"""


def computed(bought: Purchase, bill: Bill) -> int:
    """At most so many tokens: the echo engine waits before each but the first."""
    order = bought.order
    if not order.delay_ms:
        return order.tokens
    return min(order.tokens, 1 + math.floor(bill.lived_s * 1000 / order.delay_ms))


def wrong(bought: Purchase, bill: Bill | None, kills: Sequence[float] = ()) -> list[str]:
    """What is not right about the bill of a purchase: a word for the table, and a sentence.

    Delivered whole: exactly its usage. Left or late: from what was received to what was computed.
    What we broke (and what fell to a kill: `kills`, monotonic) may be free, and costs at most what
    was computed.
    """
    order, key = bought.order, bought.order.key
    if bought.ended is Ended.GONE:
        return [f"gone: {key} was billed and its client never got the answer"]
    if bill is None:
        if bought.ended is Ended.WHOLE:
            return [f"missing: {key} was delivered and has no job"]
        if (
            bought.ended in (Ended.LEFT, Ended.LATE)
            and bought.received
            and not struck(bought, kills)
        ):
            return [f"missing: {key} got {bought.received} tokens and has no job"]
        return []
    found = []
    if bill.jobs != 1 or bill.charges > 1:
        found.append(f"double: {key} has {bill.jobs} jobs and {bill.charges} charges")
    if bill.micros != bill.owed:
        found.append(f"money: {key} owes {bill.owed} micros, billed {bill.micros}")
    if bought.ended is Ended.WHOLE:
        cost = (bought.usage.get("prompt_tokens", 0), bought.usage.get("completion_tokens", 0))
        if not bill.entries:
            found.append(f"missing: {key} was delivered at {cost} and is {bill.outcome}, unbilled")
        elif (bill.prompt, bill.output) != cost:
            word = "double" if bill.output > cost[1] else "missing"
            found.append(f"{word}: {key} cost {cost}, billed {(bill.prompt, bill.output)}")
        return found
    least = bought.received if bought.ended in (Ended.LEFT, Ended.LATE) else 0
    if bill.outcome not in ("completed", "cancelled") and struck(bought, kills):
        least = 0
    most = computed(bought, bill)
    if not least <= bill.output <= most:
        word = "missing" if bill.output < least else "double"
        found.append(
            f"{word}: {key} ({bought.ended}, {bill.outcome}) received {bought.received}, at most "
            f"{most} of {order.tokens} were computed, billed {bill.output}"
        )
    return found


def struck(bought: Purchase, kills: Sequence[float]) -> bool:
    """Was something killed while it ran, or just before or after?"""
    return any(bought.began - _NEAR_S <= at <= bought.over + _NEAR_S for at in kills)
