"""The front door as an actor: uvicorn on the loop of a supervised process."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from actors.contracts.operating import Drain
from actors.core.control_lookup import ControlLookup
from supervision.child import Supervised
from supervision.contracts.operating import ActorState, Standing
from supervision.errors import Hindered
from supervision.runtime import Address, on
from supervision.security.audience import OPERATOR
from supervision.spec import ChildSpec
from supervision.telemetry import logs
from tether.http.admission import DoorAdmission
from tether.http.app import application
from tether.http.certificate import CertificateUnusable, DoorCertificate
from tether.http.gateways import Gateways
from tether.http.handover import receive
from tether.http.listener import listen
from tether.http.options import DoorOptions
from tether.http.server import HttpServer
from tether.http.storage import Storage

DRAIN_S = 30.0

log = logs.get(__name__)


class FrontDoor(Supervised):
    """Serves HTTP. Ready when the port is open; whether a model answers is `/readyz`'s matter.

    It accepts from a socket that outlives it and that others accept from as well, where one is
    handed over (`DoorOptions.handover`); else it listens by itself.
    """

    Options: ClassVar[type[msgspec.Struct]] = DoorOptions

    _server: HttpServer | None = None
    _certificate: DoorCertificate | None = None
    _told_to_stop = False

    @classmethod
    def spec(
        cls, options: msgspec.Struct | None = None, *, id: str = "0", **changes: Any
    ) -> ChildSpec:
        """A door as a child; unless told otherwise it may take `DRAIN_S` seconds to let running
        answers finish."""
        return super().spec(options, id=id, **{"shutdown": DRAIN_S, **changes})

    async def start(self, options: DoorOptions) -> None:
        """
        Raises:
            Hindered: the listening socket isn't handed over, or the certificate can't be used.
            PortTaken: it has to listen by itself, and the port is occupied.
        """
        last = b""
        if options.handover:
            sock, last = await receive(options.handover)
        else:
            sock = listen(options.host, options.port, share=options.share_port)
        try:
            control = ControlLookup(self, elsewhere=options.elsewhere, region=options.region)
            gateways = Gateways(
                self, control, partitions=options.gateways, wait_s=options.gateway_wait_s
            )
            admission = self._admission = DoorAdmission(options.max_requests)
            storage = Storage(self.tree, options.storage)
            app = application(gateways, admission, storage, options)
            certificate = self._certificate = await _certificate_of(options, last)
            self._server = HttpServer(app, sock, admission, options, certificate)
        except BaseException:
            sock.close()
            raise
        running = self.background(self._server.run(), name="http")
        running.add_done_callback(self._ended)
        self.background(storage.watch(), name="storage")
        if certificate is not None:
            self.background(certificate.watch(), name="certificate")
        # What lives now lives as long as the process; the collector need not look at it again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)
        log.info("serving", host=options.host, port=self._server.port, tls=certificate is not None)

    async def stop(self, deadline_s: float) -> None:
        """Lets running answers finish, turns new ones away. As an orphan it leaves new connections
        to its successor, which may accept already."""
        self._told_to_stop = True
        if self._server is not None:
            if self.orphaned:
                self._server.withdraw()
            await self._server.stop(deadline_s)

    @on(Drain, of=OPERATOR)
    def drain(self, msg: Drain, sender: Address) -> Standing:
        """An operator says so: running answers finish, and new requests get 503."""
        self._admission.draining = msg.on or self._told_to_stop
        draining = self._admission.draining
        return Standing(state=ActorState.DRAINING if draining else ActorState.RUNNING)

    def described(self) -> dict[str, object]:
        return {
            "port": self._server.port if self._server is not None else 0,
            "running": self._admission.running,
            "limit": self._admission.limit,
            "draining": self._admission.draining,
            "certificate_ends_s": self._certificate.current.ends_at if self._certificate else None,
        }

    def _ended(self, running: asyncio.Task[None]) -> None:
        if not self._told_to_stop and not running.cancelled():
            self.background(self.fail("the HTTP server ended by itself"), name="fail")


async def _certificate_of(options: DoorOptions, last: bytes) -> DoorCertificate | None:
    """`last` is the pair that was good last, if that is known.

    Raises:
        Hindered: there is one, and it can't be used, which may change: who puts a new one there
            writes two files.
    """
    if not options.certificate:
        return None
    certificate, key = Path(options.certificate), Path(options.key)
    try:
        return await asyncio.to_thread(DoorCertificate, certificate, key, options.tls_minimum, last)
    except CertificateUnusable as error:
        raise Hindered(str(error)) from error
