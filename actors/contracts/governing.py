"""What operators ask over HTTP besides the registry of models: limits, budgets, prices. Pure."""

from __future__ import annotations

from actors.contracts.budgets import RemoveBudget, SetBudget, ShowBudgets
from supervision.contracts.contract import Contract

AdminRequest = SetBudget | RemoveBudget | ShowBudgets


class Administer(Contract, frozen=True):
    """Front door → gateway, asked: what an operator wants done. Answered as the registry answers,
    if the credential is an operator's."""

    credential: str
    request: AdminRequest
