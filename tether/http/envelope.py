"""The envelope of every request: its id, its trace, the headers of every answer, its metrics."""

from __future__ import annotations

from collections.abc import Awaitable
from time import perf_counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from supervision.telemetry.metrics import Counter, Histogram
from tether.http import metrics
from tether.http.cancellation import Cancellation
from tether.http.identity import clean_request_id, continue_trace, new_id, new_traceparent

# The answers are JSON for programs: no browser shall sniff, frame, or run anything from them.
SECURITY = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
)


class Envelope:
    """One request's frame, found in the ASGI scope under `tether`.

    `id` is ours and unique, `request_id` is what the client called it (or `id`). `headers` has
    lower-case names; of a header sent twice it holds the last. `route` is set by the endpoint
    and names it in metrics, so a made-up path never becomes a label. `line` ends the request early
    where its endpoint doesn't do that itself.
    """

    __slots__ = ("began", "headers", "id", "line", "request_id", "route", "status", "traceparent")

    def __init__(self, headers: dict[bytes, bytes]) -> None:
        self.began = perf_counter()
        self.headers = headers
        self.id = new_id()
        named = headers.get(b"x-request-id")
        self.request_id = (clean_request_id(named) if named is not None else None) or self.id
        trace = headers.get(b"traceparent")
        self.traceparent = (
            continue_trace(trace) if trace is not None else None
        ) or new_traceparent(self.id)
        self.route = "other"
        self.status = 0
        self.line: Cancellation | None = None


class Enveloped:
    """Middleware: gives each request its Envelope and stamps each answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._bound: dict[tuple[str, int], tuple[Counter, Histogram]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        envelope = scope["tether"] = Envelope(dict(scope["headers"]))

        def stamped(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                envelope.status = message["status"]
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-request-id", envelope.request_id.encode()),
                    (b"traceparent", envelope.traceparent.encode()),
                    *SECURITY,
                ]
            return send(message)

        try:
            await self.app(scope, receive, stamped)
        finally:
            count, seconds = self._metrics(envelope.route, envelope.status)
            count.inc()
            seconds.observe(perf_counter() - envelope.began)

    def _metrics(self, route: str, status: int) -> tuple[Counter, Histogram]:
        bound = self._bound.get((route, status))
        if bound is None:
            bound = self._bound[route, status] = (
                metrics.http_requests.labels(route, str(status)),
                metrics.http_seconds.labels(route),
            )
        return bound
