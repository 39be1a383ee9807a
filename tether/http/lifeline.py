"""The lifeline of routes that have none of their own: each request ends, whoever waits for what."""

from __future__ import annotations

from collections.abc import Container

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from supervision.errors import Cancelled, TetherError
from tether.http import errors
from tether.http.cancellation import Cancellation
from tether.http.envelope import Envelope
from tether.http.options import DoorOptions

_BODILESS = frozenset({"GET", "HEAD", "OPTIONS"})  # what they may carry is never read


class Lifeline:
    """Middleware: the deadline of requests that name none, for head, body and answer together, and
    the client's hang-up. An endpoint that has read a body says so by `Envelope.line`. `POST`s to
    `besides` are left alone."""

    def __init__(self, app: ASGIApp, options: DoorOptions, besides: Container[str] = ()) -> None:
        self.app = app
        self._besides = besides
        self._deadline_s = options.default_deadline_s
        self._body_timeout_s = options.body_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or (
            scope["method"] == "POST" and scope["path"] in self._besides
        ):
            await self.app(scope, receive, send)
            return
        envelope: Envelope = scope["tether"]
        started = False

        async def noted(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            with Cancellation(receive, self._deadline_s, self._body_timeout_s) as line:
                envelope.line = line
                if scope["method"] in _BODILESS:
                    line.listening()
                try:
                    await self.app(scope, receive, noted)
                finally:
                    envelope.line = None  # it is reached by what it holds
        except Cancelled:
            return
        except TetherError as error:
            if started:
                raise  # the server closes what has begun and can't be completed
            status, headers, content = errors.answer(error)
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": content})
