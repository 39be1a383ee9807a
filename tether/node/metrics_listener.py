"""The metrics of a node, for Prometheus: an actor with a listener of its own, beside the doors.

Whoever may connect to it sees the names of all models. It is for operators, so it listens on
loopback unless `[node] metrics` says otherwise.
"""

from __future__ import annotations

import asyncio
from typing import ClassVar

import msgspec

from supervision.child import Supervised
from supervision.spec import ChildSpec
from supervision.telemetry import logs
from tether.http.handover import receive
from tether.node.exposition import MAX_HEAD_BYTES, Scrapes

log = logs.get(__name__)


class MetricsOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`handover` is where the listening socket is handed over (see `tether.http.handover`)."""

    handover: str


class MetricsListener(Supervised):
    """Answers scrapes, and does nothing else; what it says it reads when it is asked."""

    Options: ClassVar[type[msgspec.Struct]] = MetricsOptions

    @classmethod
    def at(cls, handover: str) -> ChildSpec:
        """As a child of the root."""
        return cls.spec(MetricsOptions(handover=handover), id="metrics", shutdown=1.0)

    async def start(self, options: MetricsOptions) -> None:
        """
        Raises:
            Hindered: the listening socket isn't handed over.
        """
        sock, _ = await receive(options.handover)
        host, port = sock.getsockname()[:2]
        self._scrapes = Scrapes()
        self._server = await asyncio.start_server(
            self._scrapes.answer, sock=sock, limit=MAX_HEAD_BYTES
        )
        log.info("serving metrics", host=host, port=port)

    async def stop(self, deadline_s: float) -> None:
        """Who is there still is cut off; the socket goes on for the next one."""
        self._server.close()
        self._scrapes.close()
