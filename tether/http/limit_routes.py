"""`/v1/admin/limits`: limits of tenants, for keys of operators.

::

    GET    /v1/admin/limits            those of all tenants; ?after=TENANT
    GET    /v1/admin/limits/{tenant}
    PUT    /v1/admin/limits/{tenant}   all three; one that isn't given is the configuration's
    DELETE /v1/admin/limits/{tenant}   none of its own any more
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from actors.contracts.tenant_limits import LimitsShown, OwnLimits, SetLimits, ShowLimits
from supervision.errors import BadRequest
from tether.http.operator_requests import OperatorRequests

ROOT: Final = "/v1/admin/limits"
_Limit = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)] | None


class LimitsBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """As a client writes them; null is the configuration's default."""

    requests_per_minute: _Limit = None
    tokens_per_minute: _Limit = None
    max_concurrency: _Limit = None


_bodies = msgspec.json.Decoder(LimitsBody)


class LimitRoutes:
    """Endpoints over the gateways, which know whose key is an operator's."""

    def __init__(self, requests: OperatorRequests) -> None:
        self._requests = requests

    @property
    def routes(self) -> list[Route]:
        """For the application."""
        return [
            Route(ROOT, self.index, methods=["GET"]),
            Route(f"{ROOT}/{{tenant}}", self.show, methods=["GET"]),
            Route(f"{ROOT}/{{tenant}}", self.put, methods=["PUT"]),
            Route(f"{ROOT}/{{tenant}}", self.clear, methods=["DELETE"]),
        ]

    async def index(self, request: Request) -> Response:
        show = ShowLimits(after=request.query_params.get("after", ""))
        shown = await self._requests.administer(request, show, LimitsShown)
        data = [entry(limits) for limits in shown.limits]
        return answer({"object": "list", "data": data, "has_more": shown.more})

    async def show(self, request: Request) -> Response:
        return await self._one(request, ShowLimits(tenant_id=request.path_params["tenant"]))

    async def put(self, request: Request) -> Response:
        said = await self._requests.said(request, _bodies)
        own = OwnLimits(
            tenant_id=request.path_params["tenant"],
            requests_per_minute=said.requests_per_minute,
            tokens_per_minute=said.tokens_per_minute,
            max_concurrency=said.max_concurrency,
        )
        return await self._one(request, SetLimits(limits=own))

    async def clear(self, request: Request) -> Response:
        none = OwnLimits(tenant_id=request.path_params["tenant"])
        return await self._one(request, SetLimits(limits=none))

    async def _one(self, request: Request, what: SetLimits | ShowLimits) -> Response:
        shown = await self._requests.administer(request, what, LimitsShown)
        if not shown.limits:
            raise BadRequest(
                "there is no such tenant; GET /v1/admin/limits lists all", param="tenant"
            )
        return answer(entry(shown.limits[0]))


def answer(content: object) -> Response:
    return Response(msgspec.json.encode(content), media_type="application/json")


def entry(own: OwnLimits) -> dict[str, Any]:
    """As clients are told."""
    return {
        "object": "limits",
        "tenant": own.tenant_id,
        "requests_per_minute": own.requests_per_minute,
        "tokens_per_minute": own.tokens_per_minute,
        "max_concurrency": own.max_concurrency,
    }
