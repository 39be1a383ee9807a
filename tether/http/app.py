"""The application: which path leads where."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from supervision.errors import BadRequest, Internal, TetherError
from tether.http import errors
from tether.http.admission import DoorAdmission
from tether.http.api_format import ApiFormat
from tether.http.bodies import Bodies
from tether.http.budgets import BudgetRoutes
from tether.http.completions import ChatFormat, TextFormat
from tether.http.doorkeeper import Doorkeeper
from tether.http.embeddings import EmbeddingsFormat
from tether.http.envelope import Enveloped
from tether.http.exchange import Exchange
from tether.http.gateways import Gateways
from tether.http.infer import InferFormat
from tether.http.lifeline import Lifeline
from tether.http.limit_routes import LimitRoutes
from tether.http.models import Models
from tether.http.operator_requests import OperatorRequests
from tether.http.options import DoorOptions
from tether.http.price_routes import PriceRoutes
from tether.http.probes import Probes
from tether.http.registry import RegistryRoutes
from tether.http.storage import Storage

EXPOSED = ("x-request-id", "traceparent", "retry-after", "idempotency-replayed")


def application(
    gateways: Gateways, admission: DoorAdmission, storage: Storage, options: DoorOptions
) -> ASGIApp:
    """The ASGI application of a front door. Hot paths are plain ASGI endpoints."""
    doorkeeper, bodies = Doorkeeper(gateways), Bodies(options)
    models, probes = Models(gateways, doorkeeper), Probes(gateways, admission, storage)
    limit = options.default_max_tokens

    def exchange(api_format: ApiFormat) -> Exchange:
        return Exchange(
            api_format,
            gateways,
            options,
            doorkeeper=doorkeeper,
            admission=admission,
            bodies=bodies,
            storage=storage,
        )

    hot = [
        Route("/v1/chat/completions", exchange(ChatFormat(limit)), methods=["POST"]),
        Route("/v1/completions", exchange(TextFormat()), methods=["POST"]),
        Route("/v1/embeddings", exchange(EmbeddingsFormat()), methods=["POST"]),
        Route("/v1/infer", exchange(InferFormat(limit)), methods=["POST"]),
    ]
    admin = OperatorRequests(gateways, doorkeeper, bodies, "admin")
    routes = [
        *hot,
        Route("/v1/models", models.index),
        Route("/v1/models/{model_id:path}", models.show),
        *RegistryRoutes(OperatorRequests(gateways, doorkeeper, bodies, "registry")).routes,
        *BudgetRoutes(admin).routes,
        *LimitRoutes(admin).routes,
        *PriceRoutes(admin).routes,
        Route("/healthz", probes.healthz),
        Route("/readyz", probes.readyz),
    ]

    async def refuse(request: Request, error: Exception) -> Response:
        assert isinstance(error, TetherError)
        return await _refuse(request, storage.explained(error))

    middleware = []
    if options.cors_origins:
        middleware.append(
            Middleware(
                CORSMiddleware,
                allow_origins=options.cors_origins,
                allow_methods=["GET", "POST"],
                allow_headers=["*"],
                expose_headers=EXPOSED,
            )
        )
    app = Starlette(
        routes=routes,
        middleware=middleware,
        exception_handlers={
            HTTPException: _refuse_http,
            TetherError: refuse,
            Exception: _refuse_bug,
        },
    )
    app.router.redirect_slashes = False
    endpoints = {route.path: route.endpoint for route in hot}
    rest = Lifeline(app, options, besides=endpoints.keys())
    if options.cors_origins:
        return Enveloped(rest)
    return Enveloped(Shortcut(rest, endpoints))


class Shortcut:
    """Middleware: leads POSTs of the hot paths straight to their endpoints, which saves 6 µs
    of Starlette's own middleware and routing. Those endpoints answer their errors themselves."""

    def __init__(self, app: ASGIApp, endpoints: Mapping[str, ASGIApp]) -> None:
        self.app = app
        self._endpoints = endpoints

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            endpoint = self._endpoints.get(scope["path"])
            if endpoint is not None:
                await endpoint(scope, receive, send)
                return
        await self.app(scope, receive, send)


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, TetherError)
    status, headers, content = errors.answer(error)
    response = Response(content, status)
    response.raw_headers = headers
    return response


async def _refuse_http(request: Request, error: Exception) -> Response:
    """Starlette's own refusals, which are of the path and the method."""
    assert isinstance(error, HTTPException)
    path = request.url.path[:128]
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        response = await _refuse(
            request, errors.WrongMethod(f"{path} takes {allowed}, not {request.method}")
        )
        response.headers["allow"] = allowed
        return response
    if error.status_code == 404:
        return await _refuse(request, errors.UnknownPath(f"there is no {path} here"))
    return await _refuse(request, BadRequest(error.detail))


async def _refuse_bug(request: Request, error: Exception) -> Response:
    return await _refuse(
        request, Internal(f"an error of ours; its id is {request.scope['tether'].request_id}")
    )
