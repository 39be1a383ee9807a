"""The records of budgets, for operators: made, changed, shown and removed, each on record in the
audit log."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from actors.contracts.budgets import BudgetsShown, BudgetState, RemoveBudget, SetBudget, ShowBudgets
from actors.registry.audited import audited
from actors.stores import budgets
from actors.stores.database import Database
from supervision.child import Supervised
from supervision.runtime import Address, on
from supervision.security.audience import OPERATOR
from supervision.telemetry import logs

log = logs.get(__name__)
SET: Final = "budgets set"
REMOVE: Final = "budgets remove"


class BudgetRecords:
    """The part of a registry that answers what operators ask of budgets."""

    def __init__(self, actor: Supervised, database: Database) -> None:
        self._actor = actor
        self._database = database

    @on(SetBudget, of=OPERATOR)
    async def set_budget(self, msg: SetBudget, sender: Address) -> BudgetsShown:
        """
        Raises:
            BadRequest: a number is out of range, or there is no such tenant or key.
            Unavailable: PostgreSQL, or the audit log, is away.
        """
        said = msg.budget
        words = (
            f"tenant={said.tenant_id}",
            f"key={said.key_id}",
            f"model={said.model}",
            f"period={said.period}",
            f"unit={said.unit}",
            f"amount={said.amount}",
            f"warn={','.join(map(str, said.warn))}",
            f"over={said.over}",
        )
        return await self._done(
            SET, words, msg.by, sender, lambda: budgets.set_(self._database, said)
        )

    @on(RemoveBudget, of=OPERATOR)
    async def remove_budget(self, msg: RemoveBudget, sender: Address) -> BudgetsShown:
        """
        Raises:
            BadRequest: there is no living one of this id.
            Unavailable: PostgreSQL, or the audit log, is away.
        """
        return await self._done(
            REMOVE, (f"{msg.id}",), msg.by, sender, lambda: budgets.remove(self._database, msg.id)
        )

    @on(ShowBudgets, of=OPERATOR)
    async def show_budgets(self, msg: ShowBudgets, sender: Address) -> BudgetsShown:
        """
        Raises:
            BadRequest: that is no name of a tenant.
            Unavailable: PostgreSQL is away.
        """
        found, more = await budgets.shown(self._database, msg.tenant_id, id=msg.id, after=msg.after)
        return BudgetsShown(budgets=found, more=more)

    async def _done(
        self,
        command: str,
        words: tuple[str, ...],
        by: str,
        sender: Address,
        work: Callable[[], Awaitable[BudgetState]],
    ) -> BudgetsShown:
        async with audited(self._actor, by, sender, command, words):
            state = await work()
        budget = state.budget
        log.info(
            "a budget was changed",
            what=command,
            budget=budget.id,
            tenant=budget.tenant_id,
            amount=budget.amount,
            unit=budget.unit,
            by=by or sender.node,
        )
        return BudgetsShown(budgets=(state,))
