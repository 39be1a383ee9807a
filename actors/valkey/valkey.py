"""The actor that runs the node's embedded Valkey."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Final

import msgspec

from actors.stores.embedded_valkey import START_S, EmbeddedValkey
from actors.stores.serveruser import EmbeddedError
from actors.stores.valkey_wire import NotReady
from supervision.child import Supervised
from supervision.spec import ChildSpec
from supervision.telemetry import bounds, disk, logs, title
from supervision.telemetry.line_budget import LineBudget

log = logs.get(__name__)

_STOP_S: Final = 5.0
_LOOK_S: Final = 2.0
_SILENT: Final = 3  # looks without an answer, after which it is killed
_ANSWER_S: Final = 1.0
_AGAIN_S: Final = 1.0  # between two starts in vain
_NEEDED: Final = 4 << 20  # bytes of disk without which it can't go on


class ValkeyOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`data_dir` keeps the data, `socket_dir` the socket, which must be short.

    Raises:
        ValueError: a directory is missing.
    """

    data_dir: str
    socket_dir: str

    def __post_init__(self) -> None:
        if not self.data_dir or not self.socket_dir:
            raise ValueError("the embedded Valkey needs a data_dir and a socket_dir")


class Valkey(Supervised):
    """Ready once the server answers, or was started in vain. When that ends, hangs or can't be
    started, another one is, on the same data, as often as it takes; when this actor ends, so does
    the server. Nothing waits for it, for gateways hold tenants to their own parts of the limits
    meanwhile: so whatever happens to it wears no supervisor out."""

    Options: ClassVar[type[msgspec.Struct]] = ValkeyOptions
    stop_timeout_s: ClassVar[float] = _STOP_S

    @classmethod
    def spec(
        cls, options: msgspec.Struct | None = None, *, id: str = "", **changes: Any
    ) -> ChildSpec:
        """As a child: its log of changes is read at the start."""
        patient = {"start_timeout_s": START_S + 10.0, "shutdown": _STOP_S}
        return super().spec(options, id=id, **{**patient, **changes})

    async def start(self, options: ValkeyOptions) -> None:
        self._server = EmbeddedValkey(
            Path(options.data_dir), Path(options.socket_dir), title.under("server")
        )
        self._used = bounds.used.labels("valkey_memory")
        self._refused = bounds.refused.labels("valkey_memory")
        self._lines = LineBudget(60.0, 4)
        await self._begin()
        self._keeping = self.background(self._keep(), name="server")
        self.background(self._look(), name="look")

    async def _begin(self) -> bool:
        """Start the server; did it?"""
        try:
            await self._server.start()
        except EmbeddedError as error:
            unsaid = self._lines.take("start", self.loop.time())
            if unsaid is not None:
                why = disk.shortage(self._server.data_dir, _NEEDED) or str(error)
                log.warning("valkey can't be started", error=why, unsaid=unsaid)
            return False
        log.info("valkey.ready", server_pid=self._server.pid)
        return True

    async def stop(self, deadline_s: float) -> None:
        self._keeping.cancel()
        await self._server.stop(min(_STOP_S, max(0.2, deadline_s - 1.0)))

    async def _keep(self) -> None:
        """Another server after each that has ended, or never began."""
        while True:
            if self._server.pid is None and not await self._begin():
                await asyncio.sleep(_AGAIN_S)
                continue
            await self._server.ended()
            unsaid = self._lines.take("ended", self.loop.time())
            if unsaid is not None:
                log.warning("valkey ended, and is started again", unsaid=unsaid)
            await self._server.stop()

    async def _look(self) -> None:
        """A server that hangs is killed; how full it is, is told."""
        silent = refused = 0
        while True:
            await asyncio.sleep(_LOOK_S)
            if self._server.pid is None:
                continue
            try:
                said = await self._server.ask("INFO memory errorstats", _ANSWER_S)
            except NotReady as error:
                silent += 1
                if silent >= _SILENT and (pid := self._server.pid) is not None:
                    log.warning("valkey hangs, and is killed", server_pid=pid, error=str(error))
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                continue
            silent = 0
            self._used.set(_number(said, b"used_memory"))
            before, refused = refused, _number(said, b"errorstat_OOM:count")
            if refused > before:
                self._refused.inc(refused - before)
            await asyncio.to_thread(self._server.trim)


def _number(said: bytes, name: bytes) -> int:
    """A number that INFO tells, such as `used_memory:610720` or `errorstat_OOM:count=3`; 0 where
    it tells none."""
    found = re.search(rb"^" + re.escape(name) + rb"[:=](\d+)", said, re.MULTILINE)
    return int(found[1]) if found else 0
