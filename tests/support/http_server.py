"""A front door served over a real socket within the test's loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from supervision.contracts import TreeNode
from tests.support.echo_gateway import InProcess
from tether.http.admission import DoorAdmission
from tether.http.app import application
from tether.http.certificate import DoorCertificate
from tether.http.gateways import Gateways
from tether.http.handover import receive
from tether.http.listener import listen
from tether.http.options import DoorOptions
from tether.http.server import HttpServer
from tether.http.storage import Storage

KEY = "tether-acme-secret"


class Lone:
    """The tree of a node whose database is elsewhere."""

    def node(self, path: str) -> TreeNode | None:
        return None


@dataclass
class Served:
    node: InProcess
    server: HttpServer
    admission: DoorAdmission
    certificate: DoorCertificate | None = None

    @property
    def port(self) -> int:
        return self.server.port

    @property
    def url(self) -> str:
        return f"{'https' if self.certificate else 'http'}://127.0.0.1:{self.port}"


@contextlib.asynccontextmanager
async def served(
    node: InProcess | None = None,
    options: DoorOptions | None = None,
    storage: Storage | None = None,
) -> AsyncIterator[Served]:
    node = node or InProcess()
    options = options or DoorOptions(port=0)
    gateways = Gateways(node, node, partitions=options.gateways, wait_s=options.gateway_wait_s)
    admission = DoorAdmission(options.max_requests)
    if options.handover:
        sock, _ = await receive(options.handover)
    else:
        sock = listen(options.host, options.port, share=options.share_port)
    app = application(gateways, admission, storage or Storage(Lone(), ""), options)
    certificate = None
    if options.certificate:
        files = Path(options.certificate), Path(options.key)
        certificate = DoorCertificate(*files, options.tls_minimum)
    server = HttpServer(app, sock, admission, options, certificate)
    running = asyncio.create_task(server.run())
    try:
        yield Served(node, server, admission, certificate)
    finally:
        await server.stop(1.0)
        await running
