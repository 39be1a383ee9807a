"""The spool of settles: what no reservation takes is on the disk, and is replayed from there."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from actors.contracts import ControlNode, ControlPlane, Outcome, Settle, Settled, Usage
from actors.core.control_lookup import ControlLookup
from actors.reservation import settle_replay, settler
from actors.reservation.settle_spool import SpoolOptions, record_of, settle_of_record
from actors.reservation.settler import Settler
from actors.stores.spool_file import RECORD_MAX, SpoolFile
from supervision.errors import (
    BadRequest,
    DiskFull,
    Forbidden,
    Internal,
    Overloaded,
    TetherError,
    Unavailable,
)
from tests.support.waiting import PATIENCE_S

SETTLE = Settle(job_id="j", fencing_token=1, outcome=Outcome.COMPLETED, usage=Usage())


class Outage:
    """What a settler needs of its actor; its tree is itself. Its reservation is away until `back`;
    then it answers, or raises what `says` has for a job, and notes what it was asked."""

    def __init__(self, says: dict[str, list[TetherError]] | None = None) -> None:
        self.tree = self
        self.loop = asyncio.get_running_loop()
        self.says = says or {}
        self.back = asyncio.Event()
        self.taken: list[Settle] = []
        self.tasks: list[asyncio.Task[Any]] = []

    def address(self, path: str) -> str:
        return "n/r/0"

    async def wait(self, path: str, timeout: float) -> str:
        return "n/r/1"

    def background(self, work: Any, *, name: str) -> None:
        self.tasks.append(asyncio.create_task(work, name=name))

    async def ask(self, address: Any, contract: Settle, timeout: float) -> Settled:
        if not self.back.is_set():
            raise Unavailable("PostgreSQL doesn't answer")
        if self.says.get(contract.job_id):
            raise self.says[contract.job_id].pop(0)
        self.taken.append(contract)
        return Settled(job_id=contract.job_id, first=True)

    async def end(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


def numbered(count: int, tokens: int = 3) -> list[Settle]:
    usage = Usage(prompt_tokens=1, completion_tokens=tokens)
    return [msgspec.structs.replace(SETTLE, job_id=f"j{n}", usage=usage) for n in range(count)]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """An outage that lasts far beyond the patience, in a moment."""
    monkeypatch.setattr(settler, "PATIENCE_S", 0.05)
    monkeypatch.setattr(settle_replay, "ADOPT_S", 0.05)


@pytest.mark.usefixtures("impatient")
async def test_what_nobody_takes_is_spooled_and_replayed_when_the_store_is_back(
    tmp_path: Path,
) -> None:
    actor, settles = Outage(), numbered(40)
    made = Settler(actor, "test", spool=SpoolOptions(folder=str(tmp_path)))  # type: ignore[arg-type]
    assert all(await asyncio.gather(*map(made.settle, settles)))
    assert made.away
    assert not actor.taken
    actor.back.set()
    await until(lambda: len(actor.taken) >= len(settles))
    assert sorted(actor.taken, key=lambda s: s.job_id) == sorted(settles, key=lambda s: s.job_id)
    assert not made.away
    await until(lambda: not made._spool.left)  # type: ignore[union-attr]
    await made.close()
    await actor.end()
    assert not list(tmp_path.glob("*.spool")), "all of it was taken"


@pytest.mark.usefixtures("impatient")
async def test_what_a_process_leaves_in_the_spool_is_replayed_by_another(tmp_path: Path) -> None:
    spool = SpoolOptions(folder=str(tmp_path))
    dead, settles = Outage(), numbered(3)
    killed = Settler(dead, "test", spool=spool)  # type: ignore[arg-type]
    assert await killed.settle(settles[0])
    await dead.end()
    killed._spool._file.close()  # type: ignore[union-attr]
    dying = Outage()
    last = Settler(dying, "test", spool=spool)  # type: ignore[arg-type]
    asked = [asyncio.create_task(last.settle(settle)) for settle in settles[1:]]
    await asyncio.sleep(0)
    await last.close()  # before their patience ends
    for task in asked:
        task.cancel()
    await dying.end()
    assert len(list(tmp_path.glob("*.spool"))) == 2
    heir = Outage()
    heir.back.set()
    Settler(heir, "test", spool=spool)  # type: ignore[arg-type]
    await until(lambda: len(heir.taken) == 3)
    await until(lambda: not list(tmp_path.glob("*.spool")))
    assert {settle.job_id for settle in heir.taken} == {"j0", "j1", "j2"}
    await heir.end()


@pytest.mark.usefixtures("impatient")
async def test_an_answer_is_on_the_disk_before_its_end_is_handed_out_while_nobody_takes_bills(
    tmp_path: Path,
) -> None:
    actor = Outage()
    made = Settler(actor, "test", spool=SpoolOptions(folder=str(tmp_path)))  # type: ignore[arg-type]
    first, second = numbered(2)
    assert not await made.ahead(first), "nobody is known to be away"
    assert await made.settle(first)
    assert await made.ahead(second)
    found = SpoolFile.take(next(tmp_path.glob("*.spool")))
    assert found is None, "its writer lives"
    assert b"j1" in next(tmp_path.glob("*.spool")).read_bytes()
    await made.close()
    await actor.end()


@pytest.mark.usefixtures("impatient")
async def test_a_disk_that_is_full_keeps_bills_in_memory_and_lets_nothing_new_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    actor = Outage()
    made = Settler(actor, "test", spool=SpoolOptions(folder=str(tmp_path)))  # type: ignore[arg-type]
    made.check()
    with monkeypatch.context() as patch:
        patch.setattr(SpoolFile, "append", full)
        kept = asyncio.create_task(made.settle(numbered(1)[0]))
        await until(lambda: refuses(made))
        with pytest.raises(DiskFull, match="No space left"):
            made.check()
        assert not kept.done()
    assert await kept, "there is room again"
    made.check()
    actor.back.set()
    await until(lambda: len(actor.taken) == 1)
    await made.close()
    await actor.end()


def refuses(made: Settler) -> bool:
    try:
        made.check()
    except Unavailable:
        return True
    return False


@pytest.mark.usefixtures("impatient")
async def test_a_spool_that_is_full_lets_nothing_new_begin_and_takes_old_bills(
    tmp_path: Path,
) -> None:
    actor = Outage()
    options = SpoolOptions(folder=str(tmp_path), bytes=1 << 20)
    made = Settler(actor, "test", spool=options)  # type: ignore[arg-type]
    (tmp_path / "ballast").write_bytes(bytes(1 << 20))
    with pytest.raises(Overloaded, match="of its 1048576 bytes"):
        made.check()
    assert await made.settle(numbered(1)[0])
    (tmp_path / "ballast").unlink()
    made._spool.measure()  # type: ignore[union-attr]
    made.check()
    await made.close()
    await actor.end()


@pytest.mark.usefixtures("impatient")
async def test_what_is_refused_for_good_goes_to_a_side_file_and_holds_nobody_up(
    tmp_path: Path,
) -> None:
    refusals = {
        "j0": [BadRequest("no such job")],
        "j1": [Internal("PostgreSQL refused it") for _ in range(settle_replay.FAULTS)],
        "j2": [Forbidden("not now"), Internal("once")],
    }
    actor = Outage(refusals)
    made = Settler(actor, "test", spool=SpoolOptions(folder=str(tmp_path)))  # type: ignore[arg-type]
    await asyncio.gather(*map(made.settle, numbered(4)))
    actor.back.set()
    await until(lambda: len(actor.taken) == 2)
    assert {settle.job_id for settle in actor.taken} == {"j2", "j3"}
    await until(lambda: len(refused(tmp_path)) == 2)
    found = {line["settle"]["job_id"]: line["why"] for line in refused(tmp_path)}
    assert found == {"j0": "no such job", "j1": "PostgreSQL refused it"}
    assert (tmp_path / settle_replay.REFUSED).stat().st_mode & 0o777 == 0o600
    await made.close()
    await actor.end()


class WithoutControl(Outage):
    """Of a worker's node: its roster tells of two control nodes, and only the second answers."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: set[str] = set()

    def address(self, path: str) -> None:  # type: ignore[override]
        return None

    def on_change(self, callback: object) -> None:
        """The tree stays as it is."""

    async def ask(self, address: Any, contract: Settle, timeout: float) -> Settled:
        self.asked.add(address.node)
        if address.node == "c1":
            raise Unavailable("it has lost its database")
        return await super().ask(address, contract, timeout)


@pytest.mark.usefixtures("impatient")
async def test_a_node_without_control_replays_at_any_control_node(tmp_path: Path) -> None:
    actor = WithoutControl()
    where = ControlLookup(actor, elsewhere=True, region="eu")  # type: ignore[arg-type]
    nodes = [
        ControlNode(node=node, region="eu", addresses={settler.RESERVATION: f"{node}/1/1"})
        for node in ("c1", "c2")
    ]
    where._see(ControlPlane(nodes=tuple(nodes)))
    spool = SpoolOptions(folder=str(tmp_path))
    made = Settler(actor, "test", where, spool)  # type: ignore[arg-type]
    assert all(await asyncio.gather(*(made.settle(settle, "c1") for settle in numbered(3))))
    assert not actor.taken
    actor.back.set()
    await until(lambda: len(actor.taken) == 3)
    assert actor.asked == {"c1", "c2"}
    await made.close()
    await actor.end()


def refused(folder: Path) -> list[dict[str, Any]]:
    path = folder / settle_replay.REFUSED
    lines = path.read_bytes().splitlines() if path.exists() else []
    return [msgspec.json.decode(line) for line in lines]


def test_a_record_is_read_as_it_was_written() -> None:
    settle = numbered(1)[0]
    found = settle_of_record(record_of(settle, "c1"))
    assert (found.settle, found.near) == (settle, "c1")
    answered = msgspec.structs.replace(settle, answer=bytes(1000))
    assert settle_of_record(record_of(answered, "")).settle == answered
    long = msgspec.structs.replace(settle, answer=bytes(RECORD_MAX))
    assert settle_of_record(record_of(long, "")).settle == settle
    with pytest.raises(msgspec.MsgspecError):
        settle_of_record(b"none")


@pytest.mark.parametrize("most", [0, (1 << 20) - 1])
def test_a_spool_has_room(most: int) -> None:
    with pytest.raises(ValueError, match="at least 1048576"):
        SpoolOptions(bytes=most)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - files have no event
            await asyncio.sleep(0.005)
