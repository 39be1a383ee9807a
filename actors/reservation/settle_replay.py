"""The replay of spooled settles: those of this process, and of processes that are dead.

A settle is idempotent by job and fencing token, so one that is asked twice is billed once. A file
is read in its order, a page at a time, and no page before the one before it has been answered; what
is refused for good goes into a file beside it and a line of the log, and holds nobody up.
"""

from __future__ import annotations

import asyncio
import base64
import fcntl
import os
import random
from collections.abc import Sequence
from enum import Enum, auto
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
from msgspec.structs import asdict

from actors.contracts import Settle
from actors.core.control_lookup import ControlLookup
from actors.reservation import metrics
from actors.reservation.settle_spool import PAGE, SettleSpool, SpooledSettle, settle_of_record
from actors.stores.spool_file import SpoolFile, files
from supervision.errors import BadRequest, Internal, TetherError
from supervision.policies import RetryOptions
from supervision.telemetry import audit, logs
from supervision.unreadable import UNREADABLE

RESERVATION: Final = "control/reservation"
ASK_S: Final = 10.0
ADOPT_S: Final = 5.0  # between two looks for files of the dead
BREATH_S: Final = 0.02  # between two pages: requests go first
FAULTS: Final = 5  # internal errors about one settle before it counts as refused
PAUSE: Final = RetryOptions(attempts=0, initial_s=0.1, max_s=2.0, heeds=False)
REFUSED: Final = "refused.jsonl"
_ADOPTER: Final = ".adopter"

log = logs.get(__name__)


class Asks(Protocol):
    """An actor, as far as it matters here."""

    async def ask(self, address: Any, contract: Settle, timeout: float) -> Any: ...


class Answer(Enum):
    """What reservation makes of a settle."""

    TAKEN = auto()
    REFUSED = auto()  # for good
    NONE = auto()


def is_refused(error: TetherError) -> bool:
    """Is that an answer about the settle itself, and not about who asks whom and when?"""
    return error.code == BadRequest.code


class SettleReplay:
    """Two loops, for the life of an actor.

    Args:
        spool: of this process.
        heard: is told whether a reservation has answered.
    """

    def __init__(self, actor: Asks, where: ControlLookup, spool: SettleSpool, heard: Any) -> None:
        self._actor = actor
        self._where = where
        self._spool = spool
        self._heard = heard
        self.news = asyncio.Event()

    async def run(self) -> None:
        """Replays what this process has spooled, until cancelled."""
        spool = self._spool
        while True:
            await self.news.wait()
            self.news.clear()
            while spool.left:
                try:
                    records, after = await spool.page()
                except OSError as error:
                    log.warning("the spool can't be read", error=str(error))
                    await asyncio.sleep(PAUSE.max_s)
                    continue
                await self._replay(records, "replayed")
                await spool.done(after)
                await asyncio.sleep(BREATH_S)

    async def adopt(self) -> None:
        """Replays what dead processes of the node have left, until cancelled."""
        while True:
            try:
                await self._adopt()
            except (OSError, ValueError) as error:
                log.error("a file of the spool can't be replayed", error=str(error))
            await asyncio.sleep(ADOPT_S)

    async def _adopt(self) -> None:
        folder = self._spool.folder
        if not folder.is_dir():
            return
        lock = os.open(folder / _ADOPTER, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for path in files(folder):
                await self._take(path)
        except BlockingIOError:
            return  # another process of the node is at it
        finally:
            os.close(lock)

    async def _take(self, path: Path) -> None:
        try:
            taken = await asyncio.to_thread(SpoolFile.take, path)
        except ValueError as error:
            log.error("left as it is", error=str(error))
            path.rename(path.with_suffix(".unreadable"))
            return
        if taken is None:
            return
        file, torn = taken
        try:
            if torn:
                metrics.spooled.labels("torn").inc()
                log.warning("a torn tail was cut off the spool", file=path.name, bytes=torn)
            at = count = 0
            while True:
                page = await asyncio.to_thread(file.read, at or file.begin, PAGE)
                if page.damaged:
                    metrics.spooled.labels("damaged").inc()
                    log.error("damaged records of the spool", file=path.name, bytes=page.damaged)
                if not page.records:
                    break
                await self._replay(list(page.records), "adopted")
                count, at = count + len(page.records), page.after
                await asyncio.sleep(BREATH_S)
            await asyncio.to_thread(file.remove)
            if count:
                log.info("settles of a dead process were replayed", file=path.name, settles=count)
        finally:
            file.close()

    # ---- one page

    async def _replay(self, records: Sequence[bytes], how: str) -> None:
        """Returns when each of them has its answer."""
        left: list[SpooledSettle] = []
        for record in records:
            try:
                left.append(settle_of_record(record))
            except UNREADABLE as error:
                await self._refuse(record, f"it can't be read: {error}")
        faults: dict[tuple[str, int], int] = {}
        tries = 0
        while left:
            # Alone, where the last one found nobody: all of a page would wait in vain.
            now, later = (left[:1], left[1:]) if tries else (left, [])
            answers = await asyncio.gather(*(self._ask(spooled, faults) for spooled in now))
            unanswered = [s for s, a in zip(now, answers, strict=True) if a is Answer.NONE]
            metrics.spooled.labels(how).inc(len(now) - len(unanswered))
            tries = tries + 1 if unanswered else 0
            left = [*unanswered, *later]
            if unanswered:
                self._heard(False)
                await asyncio.sleep(PAUSE.pause_s(tries, random.random()))
            else:
                self._heard(True)

    async def _ask(self, spooled: SpooledSettle, faults: dict[tuple[str, int], int]) -> Answer:
        address = self._where.address(RESERVATION, near=spooled.near)
        if address is None:
            return Answer.NONE
        settle = spooled.settle
        try:
            await self._actor.ask(address, settle, timeout=ASK_S)
        except TetherError as error:
            key = settle.job_id, settle.fencing_token
            if isinstance(error, Internal):
                faults[key] = faults.get(key, 0) + 1
            if is_refused(error) or faults.get(key, 0) >= FAULTS:
                await self._refuse(settle, error.message)
                return Answer.REFUSED
            self._where.failed(address)
            return Answer.NONE
        return Answer.TAKEN

    async def _refuse(self, what: Settle | bytes, why: str) -> None:
        await refuse(self._spool.folder, what, why)


async def refuse(folder: Path, what: Settle | bytes, why: str) -> None:
    """Puts a settle that nobody will ever take beside the spool, for whoever looks into it."""
    path = folder / REFUSED
    metrics.spooled.labels("refused").inc()
    shown = base64.b64encode(what).decode() if isinstance(what, bytes) else asdict(what)
    job = "" if isinstance(what, bytes) else what.job_id
    log.error("a settle is refused for good", job_id=job, why=why, kept_in=str(path))
    line = msgspec.json.encode({"why": why, "settle": shown}) + b"\n"
    try:
        await asyncio.to_thread(_add, path, line)
    except OSError as error:
        log.error("it can't be kept", file=str(path), error=str(error), settle=line.decode())


def _add(path: Path, line: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    number = audit.private(path, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(number, line)
        os.fsync(number)
    finally:
        os.close(number)
