"""`/v1/registry/models`: the catalog with its stages and history, for keys of operators.

::

    GET  /v1/registry/models                   all versions; ?history=true with the newest changes
    GET  /v1/registry/models/{ref}             of a name, or of name@version
    POST /v1/registry/models                   register a version
    POST /v1/registry/models/{ref}/promote     {"to": "canary" | "stable"}, or the next stage
    POST /v1/registry/models/{ref}/rollback
    POST /v1/registry/models/{ref}/retire      {"force": true} for the last stable version
"""

from __future__ import annotations

import types
import typing
from typing import Annotated, Any, Final, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from actors.contracts import (
    ModelCard,
    ModelPolicy,
    ModelsShown,
    MoveModel,
    RegisterModel,
    ShowModels,
    Stage,
)
from actors.contracts.catalog import Move
from actors.core import engine_kinds
from actors.core.intention import meant
from actors.errors import ModelNotFound
from supervision.errors import BadRequest
from tether.http.json_body import decode
from tether.http.operator_requests import OperatorRequests

MOST: Final = (1 << 31) - 1  # an integer of PostgreSQL


class _Body(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What all bodies share: a field that we don't know is a mistake of the sender."""


def _body_of(name: str, of: type[msgspec.Struct], **changed: tuple[Any, Any]) -> Any:
    """The fields of a contract's value, as a JSON object; `changed` ones have another type and
    default, and those whose type is None there are left out."""
    fields: list[tuple[str, Any, Any]] = []
    for field in msgspec.structs.fields(of):
        kind, default = changed.get(field.name, (_strict(field.type), field.default))
        if kind is not None:
            fields.append((field.name, kind, default))
    return msgspec.defstruct(name, fields, bases=(_Body,), module=__name__, kw_only=True)


def _strict(kind: Any) -> Any:
    """A table that may be left out, as a body that forgives no field which we don't know; and a
    number without bounds as one that a contract and the catalog can hold."""
    if kind is int:
        return Annotated[int, msgspec.Meta(ge=0, le=MOST)]
    options = typing.get_args(kind)
    if (
        len(options) == 2
        and options[1] is types.NoneType
        and issubclass(options[0], msgspec.Struct)
    ):
        return _body_of(f"_{options[0].__name__}", options[0]) | None
    return kind


_Policy = _body_of("_Policy", ModelPolicy)
_Card = _body_of(
    "_Card", ModelCard, policy=(_Policy | None, None), stage=(None, None), stage_s=(None, None),
    created_s=(None, None),
)  # fmt: skip


class _Move(_Body):
    to: Literal["", "canary", "stable"] = ""
    force: bool = False


_cards = msgspec.json.Decoder(_Card)
_moves = msgspec.json.Decoder(_Move)


class RegistryRoutes:
    """Endpoints over the gateways, which know whose key is an operator's."""

    def __init__(self, requests: OperatorRequests) -> None:
        self._requests = requests

    @property
    def routes(self) -> list[Route]:
        """For the application."""
        root = "/v1/registry/models"
        moves = [
            Route(f"{root}/{{ref:path}}/{verb}", getattr(self, verb), methods=["POST"])
            for verb in Move
        ]
        return [
            Route(root, self.index, methods=["GET"]),
            Route(root, self.register, methods=["POST"]),
            *moves,
            Route(f"{root}/{{ref:path}}", self.show, methods=["GET"]),
        ]

    async def index(self, request: Request) -> Response:
        return _answer(await self._show(request, ""))

    async def show(self, request: Request) -> Response:
        ref = request.path_params["ref"]
        shown = await self._show(request, ref)
        if not shown.models:
            raise ModelNotFound(f"the registry has no {ref[:128]!r}", param="model")
        return _answer(shown)

    async def register(self, request: Request) -> Response:
        said: Any = await self._requests.said(request, _cards)
        fields = {name: getattr(said, name) for name in said.__struct_fields__}
        policy = fields.pop("policy")
        if policy is not None:
            fields["policy"] = msgspec.convert(policy, ModelPolicy, from_attributes=True)
        card = ModelCard(**fields, stage=Stage.REGISTERED)
        return _answer(await self._govern(request, RegisterModel(card=card)), 201)

    async def promote(self, request: Request) -> Response:
        return await self._move(request, Move.PROMOTE)

    async def rollback(self, request: Request) -> Response:
        return await self._move(request, Move.ROLLBACK)

    async def retire(self, request: Request) -> Response:
        return await self._move(request, Move.RETIRE)

    async def _move(self, request: Request, verb: Move) -> Response:
        ref = request.path_params["ref"]
        body = await self._requests.body(request)
        said = decode(_moves, body) if body.strip() else _Move()
        shown = await self._show(request, ref)
        move = meant(shown, ref, verb, to=said.to, force=said.force)
        return _answer(await self._govern(request, move))

    async def _show(self, request: Request, ref: str) -> ModelsShown:
        history = request.query_params.get("history", "false")
        if history not in {"true", "false"}:
            raise BadRequest("history is true or false", param="history")
        return await self._govern(request, ShowModels(ref=ref, history=history == "true"))

    async def _govern(
        self, request: Request, what: RegisterModel | MoveModel | ShowModels
    ) -> ModelsShown:
        credential, _ = await self._requests.admit(request)
        return await self._requests.gateways.govern(credential, what)


def _answer(shown: ModelsShown, status: int = 200) -> Response:
    content: dict[str, Any] = {
        "object": "list",
        "data": [_entry(card, card.ref in shown.current) for card in shown.models],
    }
    if shown.history:
        content["history"] = [_said(change) for change in shown.history]
    return Response(msgspec.json.encode(content), status, media_type="application/json")


def _entry(card: ModelCard, current: bool) -> dict[str, Any]:
    return {
        **_said(card),
        "object": "model_version",
        "ref": card.ref,
        "task": engine_kinds.task(card.engine),
        "current": current,
        "policy": _said(card.policy),
    }


def _said(value: msgspec.Struct) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__struct_fields__}
