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
from supervision.errors import DiskFull, Hindered, TetherError
from supervision.spec import ChildSpec
from supervision.telemetry import bounds, disk, logs, title

log = logs.get(__name__)

_STOP_S: Final = 5.0
_LOOK_S: Final = 2.0
_SILENT: Final = 3  # looks without an answer, after which it is killed
_ANSWER_S: Final = 1.0
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
    """Ready once the server answers. When that ends, or hangs, this actor fails, and its successor
    starts another one on the same data; when this actor ends, so does the server. Nothing waits for
    either: gateways hold tenants to their own parts of the limits meanwhile. So a server that can't
    be started, or whose disk is full, wears no supervisor out."""

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
        try:
            await self._server.start()
        except (EmbeddedError, TetherError) as error:
            raise self._full(str(error)) or Hindered(str(error)) from error
        log.info("valkey.ready", server_pid=self._server.pid)
        self.background(self._watch(), name="watch")
        self.background(self._look(), name="look")

    async def stop(self, deadline_s: float) -> None:
        await self._server.stop(min(_STOP_S, max(0.2, deadline_s - 1.0)))

    async def _watch(self) -> None:
        await self._server.ended()
        ended = f"the Valkey server ended; its log is {self._server.log}"
        await self.fail(self._full(ended) or ended)

    async def _look(self) -> None:
        """A server that hangs is killed; how full it is, is told."""
        silent = refused = 0
        while True:
            await asyncio.sleep(_LOOK_S)
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

    def _full(self, what: str) -> DiskFull | None:
        """That its disk is full, if `what` may be owed to that."""
        folder = self._server.data_dir
        short = disk.shortage(folder, _NEEDED) if folder.exists() else ""
        if not short and not any(os.strerror(number) in what for number in disk.FULL):
            return None
        short = short or f"the disk of {folder} is full, or a quota; free some of it"
        return DiskFull(f"Valkey can't run: {short} ({what})")


def _number(said: bytes, name: bytes) -> int:
    """A number that INFO tells, such as `used_memory:610720` or `errorstat_OOM:count=3`; 0 where
    it tells none."""
    found = re.search(rb"^" + re.escape(name) + rb"[:=](\d+)", said, re.MULTILINE)
    return int(found[1]) if found else 0
