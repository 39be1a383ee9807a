"""`GET /v1/models` and `GET /v1/models/{id}`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from actors.contracts import ModelCard
from actors.errors import ModelNotFound
from tether.http.caller import read_credential
from tether.http.doorkeeper import Doorkeeper
from tether.http.envelope import Envelope
from tether.http.gateways import Gateways


class Models:
    """The catalog, as OpenAI lists models. The id of a model is its name; if it has several
    versions, each is listed by `name@version`, and asking for the name still works."""

    def __init__(self, gateways: Gateways, doorkeeper: Doorkeeper) -> None:
        self._gateways = gateways
        self._doorkeeper = doorkeeper

    async def index(self, request: Request) -> Response:
        cards = await self._cards(request)
        return _json({"object": "list", "data": list(listing(cards))})

    async def show(self, request: Request) -> Response:
        cards = await self._cards(request)
        wanted = request.path_params["model_id"]
        for card in cards:
            if wanted in (card.name, card.ref):
                return _json(entry(card, wanted))
        raise ModelNotFound(
            f"there is no model {wanted[:128]!r}; GET /v1/models lists them", param="model"
        )

    async def _cards(self, request: Request) -> tuple[ModelCard, ...]:
        envelope: Envelope = request.scope["tether"]
        envelope.route = "models"
        credential = read_credential(envelope.headers)
        await self._doorkeeper.admit(request.scope, credential)
        catalog = await self._gateways.models(credential)
        return catalog.models


def listing(cards: Iterable[ModelCard]) -> Iterable[dict[str, Any]]:
    """One object per card."""
    cards = list(cards)
    versions = Counter(card.name for card in cards)
    for card in cards:
        yield entry(card, card.name if versions[card.name] == 1 else card.ref)


def entry(card: ModelCard, model_id: str) -> dict[str, Any]:
    """OpenAI's `Model`, and what else is known."""
    return {
        "id": model_id,
        "object": "model",
        "created": card.created_s,
        "owned_by": "tether",
        "version": card.version,
        "engine": card.engine,
        "context": card.context,
    }


def _json(content: Any) -> Response:
    return Response(msgspec.json.encode(content), media_type="application/json")
