"""`/healthz` and `/readyz`: what load balancers ask.

They need no key, so they say no names: neither of models, which a policy may hide, nor of folders.
"""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from tether.http.admission import DoorAdmission
from tether.http.gateways import Gateways
from tether.http.storage import Storage


class Probes:
    """Endpoints that need no key."""

    def __init__(self, gateways: Gateways, admission: DoorAdmission, storage: Storage) -> None:
        self._gateways = gateways
        self._admission = admission
        self._storage = storage

    async def healthz(self, request: Request) -> Response:
        """200 while this process serves at all."""
        request.scope["tether"].route = "healthz"
        return _json(200, {"status": "ok"})

    async def readyz(self, request: Request) -> Response:
        """200 when a model answers, else 503; in a word why not, and how many answer."""
        request.scope["tether"].route = "readyz"
        if self._admission.draining:
            return _ready("draining")
        if self._storage.shortage:
            return _ready("disk_full")
        models = len(await self._gateways.ready())
        return _ready("ready" if models else "starting", models)


def _ready(status: str, models: int = 0) -> Response:
    return _json(200 if models else 503, {"status": status, "models": models})


def _json(status: int, content: object) -> Response:
    headers = {"cache-control": "no-store"}
    if status == 503:
        headers["retry-after"] = "1"
    return Response(msgspec.json.encode(content), status, headers, "application/json")
