"""Who gets what of budgets: the functions of the database choose as `actors.core.budget.choose`."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import asyncpg

from actors.contracts.budgets import BudgetPeriod, BudgetUnit, TenantBudget
from actors.core.budget import BudgetClaim, Choice, begins, choose, covers
from actors.core.ids import job_id
from actors.core.request_bound import Rates, RequestBound
from actors.stores import budgets, keys
from actors.stores.queries import sql
from tests.support.properties import examples

ROUNDS: Final = 160
MOST: Final = 9  # claims of a round
TENANTS: Final = ("acme", "other")
MODELS: Final = ("m@1", "m@2", "k@1")
LARGE: Final = 2**31 - 1
PRICE: Final = """
    INSERT INTO prices (model, currency, prompt, cached, reasoning, output, request)
    VALUES ('*', 'EUR', $1, $2, $3, $4, $5) RETURNING version
"""
PERIOD: Final = """
    INSERT INTO budget_periods (budget_id, begins, spent, reserved)
    VALUES ($1, budget_begins($2, (now() AT TIME ZONE 'UTC')::date), $3, $4)
"""
OVER: Final = """
    INSERT INTO jobs (id, tenant_id, endpoint, retry_token, fingerprint, model_ref, worker_id,
                      worker_address, attempt, claim, key_id, price, state, outcome, settled_at,
                      entries, billed_prompt, billed_output, billed_micros, max_tokens)
    VALUES ($1::text::uuid, $2, 'chat', $3, 'f', $4, 'w1', 'n1/w1', 0, 0, $5::text::uuid, $6,
            'settled', 'cancelled', now(), 1, $7, $8, $9, $10)
"""
STANDS: Final = """
    SELECT b.id, p.reserved, p.refused FROM budget_periods p JOIN budgets b ON b.id = p.budget_id
"""


@dataclass(frozen=True)
class Asked:
    """A request, and what it wants of which budgets: an answer of `output` tokens, where an earlier
    attempt got a shorter one no more than that."""

    job: str
    token: str
    tenant: str
    key: str
    model: str
    price: int | None
    claim: BudgetClaim
    output: int
    fresh: bool


class Drawn:
    """A round: budgets with something spent and reserved, and who asks, by their turns."""

    def __init__(self, dice: random.Random, of: dict[str, list[str]], prices: dict[int, Rates]):
        self.dice, self._keys, self._prices = dice, of, prices
        self.budgets: list[TenantBudget] = []
        self.left: dict[int, int] = {}
        self.asked: list[Asked] = []

    def number(self, most: int) -> int:
        """Small, or near `most`, or anything."""
        dice = self.dice
        return dice.choice((dice.randint(0, min(40, most)), most - dice.randint(0, 3) % (most + 1),
                            dice.randint(0, most)))  # fmt: skip

    async def fund(self, connection: asyncpg.Connection) -> None:
        for _ in range(self.dice.randint(1, 5)):
            tenant = self.dice.choice(TENANTS)
            amount = self.dice.choice((self.dice.randint(0, 1500), self.number(10**12)))
            state = await budgets.set_(
                connection,
                TenantBudget(
                    tenant_id=tenant,
                    key_id=self.dice.choice(("", "", *self._keys[tenant])),
                    model=self.dice.choice(("", "", "m", "m@1", "k")),
                    period=self.dice.choice(list(BudgetPeriod)),
                    unit=self.dice.choice(list(BudgetUnit)),
                    amount=amount,
                ),
            )
            if state.budget.id in self.left:
                continue  # the same once more, with another amount
            self.budgets.append(state.budget)
            spent = reserved = 0
            if self.dice.random() < 0.7:
                spent, reserved = (self.dice.randint(0, max(1, amount // 2)) for _ in "sr")
                await connection.execute(
                    PERIOD, state.budget.id, state.budget.period, spent, reserved
                )
            self.left[state.budget.id] = spent + reserved
        rows = await connection.fetch("SELECT id, amount FROM budgets WHERE removed_at IS NULL")
        amounts = dict(rows)
        self.left = {id: max(0, amounts[id] - taken) for id, taken in self.left.items()}

    async def ask(self, connection: asyncpg.Connection) -> None:
        """A third of them were billed something under an earlier attempt, or cut short there."""
        for n in range(self.dice.randint(1, MOST)):
            tenant = self.dice.choice(TENANTS)
            key, model = self.dice.choice(self._keys[tenant]), self.dice.choice(MODELS)
            total = self.dice.randint(1, 400) if self.dice.random() < 0.8 else self.number(LARGE)
            prompt = self.number(total) // self.dice.randint(1, 8)
            output, fresh = self.number(total), self.dice.random() < 0.66
            billed, capped = (0, 0), 0
            if not fresh:
                billed = (self.number(500), self.number(300))
                capped = self.dice.choice((0, self.number(100)))
            price = self.dice.choice((None, *self._prices))
            claim = BudgetClaim(
                RequestBound(prompt, min(output, capped or output), total),
                tuple(b.id for b in self.budgets if covers(b, tenant, key, model)),
                exact=self.dice.random() < 0.5,
                rates=None if price is None else self._prices[price],
                billed=billed,
            )
            token = f"{self.dice.randint(0, 10**9)} {n}"
            asked = Asked(job_id(), token, tenant, key, model, price, claim, output, fresh)
            if not fresh:
                micros, tokens = billed
                of_prompt = self.dice.randint(0, tokens)
                await connection.execute(
                    OVER, asked.job, tenant, token, model, key, price, of_prompt,
                    tokens - of_prompt, micros, capped,
                )  # fmt: skip
            self.asked.append(asked)

    async def chosen(self, connection: asyncpg.Connection, fresh: bool) -> dict[str, Choice]:
        """What the database says to those that are new, or to those that are over."""
        some = [(turn, a) for turn, a in enumerate(self.asked) if a.fresh is fresh]
        some.sort(key=lambda one: (one[1].tenant, one[1].token))
        if not some:
            return {}
        of, turns = [a for _, a in some], [turn for turn, _ in some]
        who = (
            [a.tenant for a in of],
            ["chat"] * len(of),
            [a.token for a in of],
            [b"f"] * len(of),
            [a.model for a in of],
        )
        bounds = (
            [a.claim.bound.prompt for a in of],
            [a.output for a in of],
            [a.claim.bound.total for a in of],
            [a.claim.exact for a in of],
            turns,
        )
        prices = [a.price for a in of]
        if fresh:
            rows = await connection.fetch(
                sql("open_within_budgets"), [UUID(a.job) for a in of], *who, ["w1"] * len(of),
                ["n1/w1"] * len(of), [0] * len(of), [0] * len(of), [UUID(a.key) for a in of],
                prices, 12.0, *bounds,
            )  # fmt: skip
        else:
            rows = await connection.fetch(
                sql("hold_anew_within_budgets"), *who, prices, [0] * len(of), *bounds
            )
        assert sorted(row["n"] for row in rows) == list(range(1, len(of) + 1))
        return {of[row["n"] - 1].job: _choice(of[row["n"] - 1].claim, row) for row in rows}


def _choice(claim: BudgetClaim, row: Any) -> Choice:
    if row["refused_by"] is not None:
        return Choice(0, row["refused_by"])
    return Choice(row["afforded"] or claim.bound.output)


def _expected(
    asked: Sequence[Asked], left: dict[int, int], units: dict[int, BudgetUnit]
) -> tuple[dict[str, Choice], dict[int, int], dict[int, int]]:
    """Their choices; what is held of each budget for them, and how many it has refused."""
    chosen = dict(
        zip(
            [a.job for a in asked], choose([a.claim for a in asked], left, units), strict=True
        )
    )  # fmt: skip
    held, refused = dict.fromkeys(left, 0), dict.fromkeys(left, 0)
    for a in asked:
        choice = chosen[a.job]
        if choice.refused_by is not None:
            refused[choice.refused_by] += 1
            continue
        for id in a.claim.budgets:
            held[id] += a.claim.held(units[id], choice.output)
    return chosen, held, refused


async def test_the_database_chooses_as_python_does(connection: asyncpg.Connection) -> None:
    """First those that are new, then, of what they leave, those that are given anew."""
    of: dict[str, list[str]] = {}
    for tenant in TENANTS:
        of[tenant] = [(await keys.create(connection, tenant)).key.id for _ in range(2)]
    prices = {}
    for terms in ((10**6, 5 * 10**5, 3 * 10**6, 2 * 10**6, 7), (10**9, 0, 0, 10**8, 0),
                  (0, 0, 0, 0, 0), (1, 999_999, 5, 3, 1)):  # fmt: skip
        version = await connection.fetchval(PRICE, *terms)
        prompt, cached, reasoning, output, request = terms
        prices[version] = Rates(max(prompt, cached), max(output, reasoning), request)
    claims = refusals = cut = 0
    for seed in range(examples(ROUNDS)):
        change = connection.transaction()
        await change.start()
        drawn = Drawn(random.Random(seed), of, prices)
        await drawn.fund(connection)
        await drawn.ask(connection)
        before = {row["id"]: row["reserved"] for row in await connection.fetch(STANDS)}
        units = {budget.id: budget.unit for budget in drawn.budgets}
        left, total = drawn.left, dict.fromkeys(drawn.left, 0)
        turned = dict(total)
        for fresh in (True, False):
            asked = [a for a in drawn.asked if a.fresh is fresh]
            chosen, held, refused = _expected(asked, left, units)
            assert await drawn.chosen(connection, fresh) == chosen, seed
            left = {id: left[id] - held[id] for id in left}
            total = {id: total[id] + held[id] for id in left}
            turned = {id: turned[id] + refused[id] for id in left}
            claims += len(asked)
            refusals += sum(refused.values())
            cut += sum(
                chosen[a.job].refused_by is None and chosen[a.job].output < a.claim.bound.output
                for a in asked
            )
            if fresh:  # of those that were refused nothing is left
                opened = [a.token for a in asked if chosen[a.job].refused_by is None]
                rows = await connection.fetch(
                    "SELECT retry_token FROM jobs JOIN leases ON id = job_id"
                )
                assert sorted(row[0] for row in rows) == sorted(opened), seed
        for row in await connection.fetch(STANDS):
            id = row["id"]
            assert row["reserved"] - before.get(id, 0) == total[id], (seed, id)
            assert row["refused"] == turned[id], (seed, id)
        await change.rollback()
    assert refusals > claims / 10 and cut > claims / 60, (claims, refusals, cut)


async def test_periods_begin_there_when_they_begin_here(connection: asyncpg.Connection) -> None:
    dice = random.Random(3)
    for _ in range(200):
        at = datetime.fromtimestamp(dice.randint(0, 4 * 10**9), UTC)
        for period in BudgetPeriod:
            there = await connection.fetchval(
                "SELECT budget_begins($1, ($2::timestamptz AT TIME ZONE 'UTC')::date)", period, at
            )
            assert there == begins(period, at), (period, at)
