"""`/v1/admin/budgets`: budgets of tenants, for keys of operators.

::

    GET    /v1/admin/budgets          the living ones; ?tenant=NAME, ?after=ID
    GET    /v1/admin/budgets/{id}     one, with the events of its shares
    PUT    /v1/admin/budgets          make one, or change the one that is for the same
    DELETE /v1/admin/budgets/{id}
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from actors.contracts.budgets import (
    BudgetPeriod,
    BudgetsShown,
    BudgetState,
    BudgetUnit,
    RemoveBudget,
    SetBudget,
    ShowBudgets,
    TenantBudget,
)
from supervision.errors import BadRequest
from tether.http.operator_requests import OperatorRequests, number

ROOT: Final = "/v1/admin/budgets"
_Amount = Annotated[int, msgspec.Meta(ge=-(1 << 62), le=1 << 62)]  # what is one is judged later
_Share = Annotated[int, msgspec.Meta(ge=-1000, le=1000)]


class BudgetBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A budget, as a client writes it. `key` is an id or a prefix."""

    tenant: str
    period: BudgetPeriod
    unit: BudgetUnit
    amount: _Amount
    key: str = ""
    model: str = ""
    warn: Annotated[tuple[_Share, ...], msgspec.Meta(max_length=64)] = (80, 95)
    over: Literal[402, 429] = 402


_bodies = msgspec.json.Decoder(BudgetBody)


class BudgetRoutes:
    """Endpoints over the gateways, which know whose key is an operator's."""

    def __init__(self, requests: OperatorRequests) -> None:
        self._requests = requests

    @property
    def routes(self) -> list[Route]:
        """For the application."""
        return [
            Route(ROOT, self.index, methods=["GET"]),
            Route(ROOT, self.put, methods=["PUT"]),
            Route(f"{ROOT}/{{id}}", self.show, methods=["GET"]),
            Route(f"{ROOT}/{{id}}", self.remove, methods=["DELETE"]),
        ]

    async def index(self, request: Request) -> Response:
        query = request.query_params
        show = ShowBudgets(
            tenant_id=query.get("tenant", ""), after=number("after", query.get("after"))
        )
        shown = await self._requests.administer(request, show, BudgetsShown)
        content = {
            "object": "list",
            "data": [entry(state) for state in shown.budgets],
            "has_more": shown.more,
        }
        return _answer(content)

    async def show(self, request: Request) -> Response:
        return await self._one(request, ShowBudgets(id=_id(request)))

    async def put(self, request: Request) -> Response:
        said = await self._requests.said(request, _bodies)
        budget = TenantBudget(
            tenant_id=said.tenant,
            key_id=said.key,
            model=said.model,
            period=said.period,
            unit=said.unit,
            amount=said.amount,
            warn=said.warn,
            over=said.over,
        )
        return await self._one(request, SetBudget(budget=budget))

    async def remove(self, request: Request) -> Response:
        return await self._one(request, RemoveBudget(id=_id(request)))

    async def _one(
        self, request: Request, what: SetBudget | RemoveBudget | ShowBudgets
    ) -> Response:
        shown = await self._requests.administer(request, what, BudgetsShown)
        if not shown.budgets:
            raise BadRequest("there is no such budget; GET /v1/admin/budgets lists all", param="id")
        return _answer(entry(shown.budgets[0]))


def _id(request: Request) -> int:
    return number("id", request.path_params["id"]) or -1


def _answer(content: object) -> Response:
    return Response(msgspec.json.encode(content), media_type="application/json")


def entry(state: BudgetState) -> dict[str, Any]:
    """A budget and how it stands, as clients are told; also what the command line writes."""
    budget = state.budget
    said: dict[str, Any] = {
        "id": budget.id,
        "object": "budget",
        "tenant": budget.tenant_id,
        "key": budget.key_id,
        "model": budget.model,
        "period": budget.period,
        "unit": budget.unit,
        "amount": budget.amount,
        "warn": list(budget.warn),
        "over": budget.over,
        "begins": state.begins,
        "ends": None if state.ends_s is None else _time(state.ends_s),
        "spent": state.spent,
        "reserved": state.reserved,
        "left": state.left,
        "refused": state.refused,
    }
    if state.events:
        said["events"] = [
            {
                "begins": event.begins,
                "share": event.share,
                "spent": event.spent,
                "amount": event.amount,
                "at": _time(event.at_s),
            }
            for event in state.events
        ]
    return said


def _time(at_s: float) -> str:
    return f"{datetime.fromtimestamp(at_s, UTC):%Y-%m-%dT%H:%M:%SZ}"
