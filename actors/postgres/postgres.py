"""The actor that runs the node's embedded PostgreSQL."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from actors.stores.database import answers, connect, migrate
from actors.stores.embedded import START_S, Embedded
from supervision.child import Supervised
from supervision.spec import ChildSpec
from supervision.telemetry import logs

log = logs.get(__name__)

_STOP_S = 20.0


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
    """Ready once the server takes connections and its schema is up to date.

    When the server ends, this actor fails, and its supervisor's restart recovers the data. When
    this actor is killed the server runs on, and the next one adopts it. When it ends in order,
    also because its supervisor is gone, the server is stopped.
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
        dsn = await self._server.start()
        try:
            connection = await connect(dsn)
            try:
                with answers():
                    await migrate(connection)
            finally:
                await connection.close(timeout=5)
        except BaseException:
            await self._server.stop()
            raise
        log.info("postgres.ready", server_pid=self._server.running())
        self.background(self._watch(), name="watch")
        self.background(self._trim(options.trim_s), name="trim")

    async def stop(self, deadline_s: float) -> None:
        # The last second is for a server that has to be stopped the hard way.
        await self._server.stop(min(_STOP_S, max(0.2, deadline_s - 1.0)))

    async def _watch(self) -> None:
        await self._server.ended()
        await self.fail(f"the PostgreSQL server ended; its log is {self._server.log}")

    async def _trim(self, period_s: float) -> None:
        while True:
            await asyncio.sleep(period_s)
            await asyncio.to_thread(self._server.trim)
