"""The spool of a process: settles that no reservation has answered, on the disk of the node.

All processes of a node have their files in one folder, and one bound in bytes over it. Beyond the
bound nothing new may begin, but a settle is written all the same: it is an old bill. What writes
waits for one `fdatasync` with all others that came meanwhile.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import msgspec
from msgspec.structs import replace

from actors.contracts import Settle
from actors.reservation import metrics
from actors.stores.spool_file import RECORD_MAX, SUFFIX, SpoolFile, held_bytes
from supervision.errors import DiskFull, Overloaded, TetherError
from supervision.security.files import make_folder
from supervision.telemetry import audit, bounds, disk, logs

FOLDER: Final = "spool"
MEASURE_S: Final = 1.0  # between two looks at what the folder holds
PAGE: Final = 32  # records that are read at once
RECORD_MEAN: Final = 512  # bytes, rather more than a settle has without an answer

log = logs.get(__name__)
_T = TypeVar("_T")


class SpoolOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`bytes` bound what all processes of the node hold in the folder of the spool: `folder`, or
    the one of the node that the process is of. Where there is neither, nothing is spooled.

    Raises:
        ValueError: the bound is below 1 MiB.
    """

    folder: str = ""
    bytes: int = 64 << 20

    def __post_init__(self) -> None:
        if self.bytes < 1 << 20:
            raise ValueError("the spool of a node needs at least 1048576 bytes")

    @property
    def where(self) -> Path | None:
        """The folder; None where nothing is spooled."""
        if self.folder:
            return Path(self.folder)
        home = audit.home()
        return None if home is None else home / FOLDER


class SpooledSettle(msgspec.Struct, frozen=True, array_like=True):
    """A record: what is to be settled, and the node whose reservation has made the job."""

    settle: Settle
    near: str = ""


_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(SpooledSettle)


def record_of(settle: Settle, near: str) -> bytes:
    """The record of a settle, without the finished answer where that is too long for one: it would
    only be kept, and the bill is what matters."""
    if len(settle.answer) > RECORD_MAX - RECORD_MEAN:
        settle = replace(settle, answer=b"")
    return _encode(SpooledSettle(settle, near))


def settle_of_record(record: bytes) -> SpooledSettle:
    """
    Raises:
        one of `UNREADABLE`: it is no record of a settle.
    """
    return _decoder.decode(record)


class SettleSpool:
    """The file of this process, made when it is first needed.

    Args:
        changed: is called when there is something new to replay.
    """

    def __init__(self, folder: Path, most: int, changed: Callable[[], object]) -> None:
        self.folder = folder
        self._most = most
        self._changed = changed
        self._file: SpoolFile | None = None
        self._read_to = 0
        self._busy = asyncio.Lock()
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None
        self._held = 0
        self._looked_at = -MEASURE_S
        self._unwritten: OSError | None = None
        self._used = bounds.used.labels("spool_bytes")
        self._refused = bounds.refused.labels("spool_bytes")

    # ---- writing

    async def put(self, settle: Settle, near: str) -> None:
        """Returns when it is on the disk.

        Raises:
            DiskFull: it isn't: the disk is full or fails. It may be put again.
        """
        record = record_of(settle, near)
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((record, written))
        if self._writing is None:
            self._writing = asyncio.get_running_loop().create_task(self._write(), name="spool")
        await asyncio.shield(written)

    async def _write(self) -> None:
        try:
            while self._waiting:
                waiting, self._waiting = self._waiting, []
                error = await self._append([record for record, _ in waiting])
                for _, written in waiting:
                    if written.done():
                        continue
                    if error is None:
                        written.set_result(None)
                    else:
                        written.set_exception(error)
                        written.exception()  # whoever waited may have left
        finally:
            self._writing = None

    async def _append(self, records: list[bytes]) -> TetherError | None:
        try:
            await self._alone(lambda: self._opened().append(records))
        except TetherError as error:
            return error
        except OSError as error:
            self._unwritten = error
            disk.unwritten("spool", error)
            return DiskFull(
                f"the spool {self.folder} can't be written ({error.strerror}), and PostgreSQL "
                "doesn't answer; free room on its disk"
            )
        self._unwritten = None
        disk.written("spool")
        metrics.spooled.labels("kept").inc(len(records))
        self._looked_at = -MEASURE_S
        self._used.set(self._file.end if self._file is not None else 0)
        self._changed()
        return None

    def _opened(self) -> SpoolFile:
        if self._file is None:
            make_folder(self.folder)
            name = f"{time.time_ns():x}-{os.getpid()}{SUFFIX}"
            self._file = SpoolFile.make(self.folder / name)
            self._read_to = self._file.end
        return self._file

    async def _alone(self, work: Callable[[], _T]) -> _T:
        async with self._busy:
            return await asyncio.to_thread(work)

    # ---- its bound

    def check(self, now: float, running: int = 0) -> None:
        """May anything new begin beside `running` others, of which each may need a record?

        Raises:
            Overloaded: the spool has no room.
            DiskFull: what should be in it can't be written.
        """
        if self._unwritten is not None:
            self._refused.inc()
            raise DiskFull(
                f"bills wait in memory, for neither PostgreSQL nor the spool {self.folder} takes "
                f"them ({self._unwritten.strerror}): nothing new begins before one of them does",
                retry_after_s=5.0,
            )
        if now - self._looked_at >= MEASURE_S:
            self._looked_at = now
            self.measure()
        if self._held and self._held + (running + 1) * RECORD_MEAN > self._most:
            self._refused.inc()
            raise Overloaded(
                f"the spool {self.folder} holds {self._held} of its {self._most} bytes: nothing "
                "new begins before PostgreSQL has taken the bills in it",
                retry_after_s=5.0,
            )

    def measure(self) -> None:
        """Looks at what the folder holds."""
        try:
            self._held = held_bytes(self.folder)
        except FileNotFoundError:
            self._held = 0
        except OSError as error:
            log.warning("the spool can't be looked at", folder=str(self.folder), error=str(error))

    def relieved(self) -> None:
        """Nothing waits in memory any more for what could not be written."""
        self._unwritten = None

    # ---- reading

    @property
    def left(self) -> bool:
        """Is there anything to be replayed?"""
        return self._file is not None and self._read_to < self._file.end

    async def page(self) -> tuple[list[bytes], int]:
        """The next records, and where they end; `done` with that takes them off.

        Raises:
            OSError: the disk fails.
        """
        file, at = self._file, self._read_to
        if file is None:
            return [], at
        found = await self._alone(lambda: file.read(at, PAGE))
        if found.damaged or (found.after == at < file.end):
            log.error("records of the spool are damaged", file=str(file.path), at=at)
            return list(found.records), found.after if found.records else file.end
        return list(found.records), found.after

    async def done(self, after: int) -> None:
        """All before `after` needs no replaying any more."""
        self._read_to = after
        file = self._file
        if file is not None and after >= file.end and self._writing is None:
            try:
                await self._alone(lambda: self._emptied(file))
            except OSError as error:
                log.warning("the spool can't be emptied", error=str(error))

    def _emptied(self, file: SpoolFile) -> None:
        if self._read_to >= file.end:
            file.empty()
            self._read_to = file.end
            self._used.set(0)

    async def close(self) -> None:
        """Lets go of the file; what is in it stays for whoever comes next."""
        while self._writing is not None:
            await asyncio.wait([self._writing])
        file, self._file = self._file, None
        if file is not None:
            await self._alone(file.remove if self._read_to >= file.end else file.close)
