"""One round of reserves whose tenants have budgets, on one connection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import asyncpg

from actors.contracts import Reserve
from actors.contracts.budgets import BudgetPeriod, BudgetUnit, TenantBudget
from actors.core import budget as budgets
from actors.stores import metrics
from actors.stores.jobs import Desk, token_order
from actors.stores.queries import sql
from actors.stores.reserve_answers import Answer, given
from supervision.errors import BadRequest, TetherError

_Asked = tuple[Any, Reserve]
_NONE: Final = -1  # no budget has this number: all that is over has to reserve first


class _Faster(Exception):
    """Somebody else has taken a job between two looks at it; nothing of it is committed."""


class BudgetDesk(Desk):
    """Opens jobs within budgets in one statement; what it finds taken is contested as any other
    job, except that one which is over has to reserve anew before it is given anew."""

    async def within(self, reserves: Sequence[_Asked]) -> list[Answer]:
        """What each comes to, in their order. Safe to repeat as `round` is: a reserve that finds
        its own job finds what that has reserved.

        Raises:
            asyncpg.PostgresError, OSError, TimeoutError: nothing can be said of the round.
        """
        answers: list[Answer] = [_unbounded(m) for _, m in reserves]
        turns = [n for n, (_, m) in enumerate(reserves) if m.worker_id and answers[n] is None]
        turns.sort(key=lambda n: token_order(reserves[n]))
        opening = [reserves[n] for n in turns]
        rows = await self.connection.fetch(
            sql("open_within_budgets"),
            *self._reserve_columns(opening),
            self._lease,
            *_bounds(opening),
            turns,
            timeout=self._timeout,
        )
        refusing = await self._refusing(rows)
        for row in rows:
            at = turns[row["n"] - 1]
            m = reserves[at][1]
            if row["refused_by"] is None:
                answers[at] = given(m, m.job.job_id, 1, row["afforded"])
            else:
                answers[at] = _refusal(m, row, refusing)
        left = [n for n, answer in enumerate(answers) if answer is None]
        if left:
            contested = await self._contested([reserves[n] for n in left], over=False)
            for n, answer in zip(left, contested.answers, strict=True):
                answers[n] = answer
            anew = [left[n] for n in contested.anew]
            if anew:
                for n, answer in zip(
                    anew, await self._anew([reserves[n] for n in anew]), strict=True
                ):
                    answers[n] = answer
        return answers

    async def _anew(self, reserves: list[_Asked]) -> list[Answer]:
        answers: list[Answer] = [None] * len(reserves)
        turns = sorted(range(len(reserves)), key=lambda n: token_order(reserves[n]))
        asked = [reserves[n] for n in turns]
        columns = self._reserve_columns(asked)
        try:
            async with self.connection.transaction():
                rows = await self.connection.fetch(
                    sql("hold_anew_within_budgets"),
                    *columns[1:6],
                    columns[11],
                    [m.ownership.lost_fencing_token for _, m in asked],
                    *_bounds(asked),
                    turns,
                    timeout=self._timeout,
                )
                refusing = await self._refusing(rows)
                held = []
                for row in rows:
                    at = turns[row["n"] - 1]
                    if row["refused_by"] is None:
                        held.append(at)
                    else:
                        answers[at] = _refusal(reserves[at][1], row, refusing)
                if held:
                    contested = await self._contested([reserves[n] for n in held], over=True)
                    if contested.given < len(held):
                        raise _Faster
                    for at, answer in zip(held, contested.answers, strict=True):
                        answers[at] = answer
        except _Faster:
            return [None] * len(reserves)
        return answers

    @property
    def _gives_over(self) -> int:
        return _NONE

    async def _refusing(self, rows: Sequence[asyncpg.Record]) -> dict[int, asyncpg.Record]:
        ids = sorted({row["refused_by"] for row in rows} - {None})
        if not ids:
            return {}
        found = await self.connection.fetch(sql("refusing_budgets"), ids, timeout=self._timeout)
        return {row["id"]: row for row in found}


def _bounds(reserves: Sequence[_Asked]) -> tuple[list[Any], ...]:
    return (
        [m.most.prompt_tokens for _, m in reserves],
        [m.most.output_tokens for _, m in reserves],
        [m.most.total_tokens for _, m in reserves],
        [m.most.exact for _, m in reserves],
    )


def _unbounded(m: Reserve) -> Answer:
    if not m.worker_id or m.most.total_tokens:
        return None
    return BadRequest(
        f"tenant {m.job.tenant_id} has budgets, and this reserve doesn't say what it may use at "
        "most"
    )


def _refusal(
    m: Reserve, row: asyncpg.Record, refusing: Mapping[int, asyncpg.Record]
) -> TetherError:
    said = refusing[row["refused_by"]]
    budget = TenantBudget(
        id=said["id"],
        tenant_id=m.job.tenant_id,
        key_id=said["key_id"] or "",
        model=said["model"],
        period=BudgetPeriod(said["period"]),
        unit=BudgetUnit(said["unit"]),
        amount=said["amount"],
        over=said["over"],
    )
    metrics.budget_refusals.labels(budget.unit).inc()
    return budgets.exceeded(budget, said["begins"], row["room"], said["now"])
