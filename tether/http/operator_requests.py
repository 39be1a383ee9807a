"""Requests of operators over HTTP: whose key it is, and the body, once that is known."""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec
from starlette.requests import Request

from actors.contracts import Authenticated
from actors.contracts.governing import AdminRequest
from supervision.contracts import Contract
from supervision.errors import BadRequest
from tether.http.bodies import Bodies
from tether.http.caller import read_credential
from tether.http.doorkeeper import Doorkeeper
from tether.http.envelope import Envelope
from tether.http.gateways import Gateways
from tether.http.json_body import decode

MAX_BODY: Final = 64 << 10
T = TypeVar("T")
C = TypeVar("C", bound=Contract)


class OperatorRequests:
    """What routes of operators have in common. Whether the key is an operator's is for its gateway
    to say, which passes on what is asked.

    Args:
        route: what their requests are counted as.
    """

    def __init__(
        self, gateways: Gateways, doorkeeper: Doorkeeper, bodies: Bodies, route: str
    ) -> None:
        self.gateways = gateways
        self._doorkeeper = doorkeeper
        self._bodies = bodies
        self._route = route

    async def admit(self, request: Request) -> tuple[str, Authenticated]:
        """The key of a request, and whose it is.

        Raises:
            Unauthenticated: it is none.
        """
        envelope: Envelope = request.scope["tether"]
        envelope.route = self._route
        credential = read_credential(envelope.headers)
        return credential, await self._doorkeeper.admit(request.scope, credential)

    async def body(self, request: Request) -> bytes:
        """Its body, once it is known whose it is.

        Raises:
            Unauthenticated, BodyTooLarge: as it says.
        """
        _, who = await self.admit(request)
        envelope: Envelope = request.scope["tether"]
        with self._bodies.of(who.tenant_id) as share:
            body = await self._bodies.read(request.receive, envelope.headers, MAX_BODY, share)
        if envelope.line is not None:
            envelope.line.listening()
        return body

    async def said(self, request: Request, decoder: msgspec.json.Decoder[T]) -> T:
        """Its body, decoded.

        Raises:
            BadRequest: it doesn't fit.
        """
        return decode(decoder, await self.body(request))

    async def administer(self, request: Request, what: AdminRequest, kind: type[C]) -> C:
        """What the registry answers to an operator."""
        credential, _ = await self.admit(request)
        return await self.gateways.administer(credential, what, kind)


def number(name: str, value: str | None) -> int:
    """A whole number that stands in the path or the query; 0 where there is none.

    Raises:
        BadRequest: it is none, or no row has it.
    """
    if value is None:
        return 0
    if not (value.isascii() and value.isdecimal() and len(value) <= 18):
        raise BadRequest(f"{name} is a whole number from 0", param=name)
    return int(value)
