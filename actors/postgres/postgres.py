"""The actor that runs the node's embedded PostgreSQL."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from actors.stores.database import answers, connect, migrate
from actors.stores.database_roles import grant
from actors.stores.disk_needs import NEEDED
from actors.stores.embedded import START_S, Embedded
from actors.stores.serveruser import EmbeddedError
from supervision.child import Supervised
from supervision.errors import DiskFull, TetherError
from supervision.spec import ChildSpec
from supervision.telemetry import disk, logs

log = logs.get(__name__)

_STOP_S = 20.0
_ROOM_S = 2.0
_LOOK_S = 0.1


class PostgresOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`data_dir` keeps the data, `socket_dir` the socket, which must be short (see `Embedded`).
    The log is looked at every `trim_s`.

    Raises:
        ValueError: a directory is missing, or the period is not above 0.
    """

    data_dir: str
    socket_dir: str
    trim_s: float = 60.0

    def __post_init__(self) -> None:
        if not self.data_dir or not self.socket_dir:
            raise ValueError("the embedded PostgreSQL needs a data_dir and a socket_dir")
        if self.trim_s <= 0:
            raise ValueError("trim_s of the embedded PostgreSQL must be above 0")


class Postgres(Supervised):
    """Ready once the server takes connections, its schema is up to date, and each kind of actor has
    a user with its rights.

    When the server ends, this actor fails, and its supervisor's restart recovers the data. When
    this actor is killed the server runs on, and the next one adopts it. When it ends in order,
    also because its supervisor is gone, the server is stopped. While there is no room on its disk
    it fails with `DiskFull`, which wears no supervisor out.
    """

    Options: ClassVar[type[msgspec.Struct]] = PostgresOptions
    stop_timeout_s: ClassVar[float] = _STOP_S

    @classmethod
    def spec(
        cls, options: msgspec.Struct | None = None, *, id: str = "", **changes: Any
    ) -> ChildSpec:
        """As a child: it may need time to recover after a crash, and to write a checkpoint."""
        patient = {"start_timeout_s": START_S + 10.0, "shutdown": _STOP_S}
        return super().spec(options, id=id, **{**patient, **changes})

    async def start(self, options: PostgresOptions) -> None:
        self._server = Embedded(Path(options.data_dir), Path(options.socket_dir))
        try:
            await self._begin()
        except (EmbeddedError, TetherError) as error:
            raise self._full(str(error)) or error from error
        log.info("postgres.ready", server_pid=self._server.running())
        self.background(self._watch(), name="watch")
        self.background(self._trim(options.trim_s), name="trim")

    async def _begin(self) -> None:
        await self._wait_for_room()
        dsn = await self._server.start()
        try:
            connection = await connect(dsn)
            try:
                with answers():
                    await migrate(connection)
                    await grant(connection)
            finally:
                await connection.close(timeout=5)
        except BaseException:
            await self._server.stop()
            raise

    async def _wait_for_room(self) -> None:
        """A server that is to be started on a full disk would only fail. After `_ROOM_S` it is
        tried all the same: it may need less."""
        folder, until = self._server.data_dir, self.loop.time() + _ROOM_S
        while self._server.running() is None and disk.shortage(folder, NEEDED):
            if self.loop.time() >= until:
                break
            await asyncio.sleep(_LOOK_S)

    def _full(self, what: str) -> DiskFull | None:
        """That its disk is full, if `what` may be owed to that. The server's own log is on that
        disk, so it may not have been able to say."""
        folder = self._server.data_dir
        short = disk.shortage(folder, NEEDED)
        if not short and not any(os.strerror(number) in what for number in disk.FULL):
            return None
        short = short or f"the disk of {folder} is full, or a quota; free some of it"
        return DiskFull(f"PostgreSQL can't run: {short} ({what})")

    async def stop(self, deadline_s: float) -> None:
        # The last second is for a server that has to be stopped the hard way.
        await self._server.stop(min(_STOP_S, max(0.2, deadline_s - 1.0)))

    async def _watch(self) -> None:
        await self._server.ended()
        ended = f"the PostgreSQL server ended; its log is {self._server.log}"
        await self.fail(self._full(ended) or ended)

    async def _trim(self, period_s: float) -> None:
        while True:
            await asyncio.sleep(period_s)
            await asyncio.to_thread(self._server.trim)
