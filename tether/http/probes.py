"""`/healthz`, `/readyz` and `/metrics`: what load balancers and Prometheus ask."""

from __future__ import annotations

import asyncio
import os

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
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
        self._scrape = asyncio.Lock()

    async def healthz(self, request: Request) -> Response:
        """200 while this process serves at all."""
        request.scope["tether"].route = "healthz"
        return _json(200, {"status": "ok"})

    async def readyz(self, request: Request) -> Response:
        """200 when a model answers, else 503 and why not."""
        request.scope["tether"].route = "readyz"
        if self._admission.draining:
            return _json(503, {"status": "draining", "models": []})
        if self._storage.shortage:
            full = {"status": "disk_full", "models": [], "why": self._storage.shortage}
            return _json(503, full)
        models = await self._gateways.ready()
        if not models:
            return _json(503, {"status": "starting", "models": []})
        return _json(200, {"status": "ready", "models": models})

    async def metrics(self, request: Request) -> Response:
        """The sum over all processes of the node if they share a metrics directory
        (`PROMETHEUS_MULTIPROC_DIR`), else this process alone. One scrape at a time, in a
        thread, since it reads a file for each process."""
        request.scope["tether"].route = "metrics"
        async with self._scrape:
            text = await asyncio.to_thread(exposition)
        return Response(text, headers={"content-type": CONTENT_TYPE_LATEST})


def exposition() -> bytes:
    """All metrics in Prometheus' text format."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)


def _json(status: int, content: object) -> Response:
    headers = {"cache-control": "no-store"}
    if status == 503:
        headers["retry-after"] = "1"
    return Response(msgspec.json.encode(content), status, headers, "application/json")
