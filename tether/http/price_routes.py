"""`/v1/admin/prices`: prices of models, for keys of operators.

::

    GET  /v1/admin/prices   the newest versions, newest first; ?model=NAME of one model's price
    POST /v1/admin/prices   a new version, of `[[prices]]`' options; 201
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from actors.contracts.model_prices import AddPrice, ModelPrice, PricesShown, ShowPrices
from actors.core.money import shown as money
from actors.core.price_options import AMOUNTS, PriceOptions, price_problems
from supervision.errors import BadRequest
from tether.http.operator_requests import OperatorRequests

ROOT: Final = "/v1/admin/prices"


class PriceBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A price, as a client writes it: money for a million tokens, and for a request."""

    model: str
    currency: str
    prompt: Decimal = Decimal(0)
    cached: Decimal | None = None
    reasoning: Decimal | None = None
    output: Decimal = Decimal(0)
    request: Decimal = Decimal(0)
    since: datetime | None = msgspec.field(default=None, name="from")


_bodies = msgspec.json.Decoder(PriceBody)


class PriceRoutes:
    """Endpoints over the gateways, which know whose key is an operator's."""

    def __init__(self, requests: OperatorRequests) -> None:
        self._requests = requests

    @property
    def routes(self) -> list[Route]:
        """For the application."""
        return [
            Route(ROOT, self.index, methods=["GET"]),
            Route(ROOT, self.add, methods=["POST"]),
        ]

    async def index(self, request: Request) -> Response:
        show = ShowPrices(model=request.query_params.get("model", ""))
        shown = await self._requests.administer(request, show, PricesShown)
        data = [entry(price) for price in shown.prices]
        return _answer({"object": "list", "data": data, "has_more": shown.more})

    async def add(self, request: Request) -> Response:
        price = read(await self._requests.said(request, _bodies))
        shown = await self._requests.administer(request, AddPrice(price=price), PricesShown)
        return _answer(entry(shown.prices[0]), 201)


def read(body: PriceBody) -> ModelPrice:
    """
    Raises:
        BadRequest: an amount, the currency or the time can be none of a price.
    """
    said = PriceOptions(**msgspec.structs.asdict(body))
    for problem in price_problems(said):
        raise BadRequest(problem.sentence, param=problem.path)
    price = said.price()
    return ModelPrice(
        model=price.model,
        currency=price.currency,
        prompt=price.prompt,
        cached=price.cached,
        reasoning=price.reasoning,
        output=price.output,
        request=price.request,
        from_s=None if said.begins is None else said.begins.timestamp(),
    )


def _answer(content: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(content), status, media_type="application/json")


def entry(price: ModelPrice) -> dict[str, Any]:
    """As clients are told; money as text, which no parser rounds."""
    assert price.from_s is not None
    return {
        "version": price.version,
        "object": "price",
        "model": price.model,
        "currency": price.currency,
        **{name: money(getattr(price, name)) for name in AMOUNTS},
        "from": f"{datetime.fromtimestamp(price.from_s, UTC):%Y-%m-%dT%H:%M:%S.%fZ}",
        "made_by": price.made_by,
    }
