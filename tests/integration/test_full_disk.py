"""Whatever writes on a full disk: it degrades, leaves nothing half written, and goes on later."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.small_disk import python_on_disk

HOME = """
import json, sys
from pathlib import Path
from tests.support.small_disk import fill
from tether.node.home import Home, HomeUnusable, NodeState, read_state
from supervision.telemetry.audit import Audit, Unwritable, Who, read
path = Path(sys.argv[1]) / "home"
home = Home.claim(path, "n1")
state = NodeState(pid=1, node="n1", run_dir=str(home.run_dir), admin_port=1900)
home.tell(state)
audit = Audit(path, Who(), "n1")
audit.write("1", "kill", ("a",), "begins")
ballast = fill(Path(sys.argv[1]))
refused = 0
try:
    home.tell(NodeState(pid=2, node="n" * 50_000, run_dir="", admin_port=1900))
except OSError:
    refused += 1
for number in range(100):  # until the last page is full, which is on the disk already
    try:
        audit.write("2", "kill", ("x" * 900,), "begins")
    except Unwritable:
        refused += 1
        break
whole = len(read(audit.path))
told = read_state(path) == state
home.close()
try:
    Home.claim(path, "n1").close()
except HomeUnusable as error:
    refused += 1
layout = (path / "layout").read_text()
ballast.unlink()
audit.write("3", "kill", ("b",), "begins")
print(json.dumps([refused >= 2, told, layout, [e.id for e in read(audit.path)][-1],
                  len(read(audit.path)) - whole, [p.name for p in path.glob("*.new")]]))
Home.claim(path, "n1").close()
"""
SPOOL = """
import asyncio, json, sys
from pathlib import Path
from tests.support.small_disk import fill
from actors.contracts import Outcome, Settle, Usage
from actors.reservation.settle_spool import SettleSpool, settle_of_record
from supervision.errors import DiskFull
def settle(number):
    usage = Usage(prompt_tokens=number)
    return Settle(job_id=str(number), fencing_token=1, outcome=Outcome.COMPLETED, usage=usage)
async def main():
    disk = Path(sys.argv[1])
    spool = SettleSpool(disk / "spool", 64 << 20, lambda: None)
    await spool.put(settle(0), "")
    ballast = fill(disk)
    written = [0]
    try:
        for number in range(1, 10_000):  # until the last page is full, which is on the disk already
            await spool.put(settle(number), "")
            written.append(number)
        said = "nothing"
    except DiskFull as error:
        said = str(error)
    try:
        spool.check(0.0)
        refused = ""
    except DiskFull as error:
        refused = str(error)
    ballast.unlink()
    await spool.put(settle(number), "")
    spool.check(10.0)
    written.append(number)
    found = []
    while spool.left:
        records, after = await spool.page()
        found += [int(settle_of_record(record).settle.job_id) for record in records]
        await spool.done(after)
    await spool.close()
    left = [path.name for path in (disk / "spool").iterdir()]
    print(json.dumps([said, refused, found == written, len(found) > 1, left]))
asyncio.run(main())
"""
POSTGRES = """
import asyncio, json, os, signal, sys, time
from pathlib import Path
import asyncpg
from tests.support.small_disk import fill
from supervision.errors import DiskFull
from actors.stores.database import answers, connect
from actors.stores.disk_needs import NEEDED
from actors.stores.embedded import Embedded
from actors.stores.serveruser import EmbeddedError
from supervision.telemetry import disk
home = Path(sys.argv[1])

async def main():
    said = {}
    first = Embedded(home / "pg", home / "s")
    dsn = await first.start()
    connection = await connect(dsn)
    await connection.execute("CREATE TABLE t AS SELECT 7 AS kept")
    said["room"] = disk.shortage(home / "pg", NEEDED)
    ballast = fill(home)
    said["full"] = str(home / "pg") in disk.shortage(home / "pg", NEEDED)
    try:
        with answers():
            await connection.execute("CREATE TABLE big AS SELECT repeat('x', 1000) FROM "
                                     "generate_series(1, 100000)")
    except DiskFull as error:
        said["refused"] = error.message
    pid = first.running()
    first.release()
    second = Embedded(home / "pg", home / "s")
    await second.start()
    said["adopted"] = second.running() == pid
    os.kill(pid, signal.SIGKILL)
    await second.ended()
    try:
        await second.start()
    except EmbeddedError as error:
        said["down"] = second.running() is None
    ballast.unlink()
    dsn = await second.start()
    connection = await connect(dsn)
    said["kept"] = await connection.fetchval("SELECT kept FROM t")
    await connection.close()
    await second.stop()
    print(json.dumps(said))

asyncio.run(main())
"""


def test_files_of_a_node_are_whole(tmp_path: Path) -> None:
    said = json.loads(python_on_disk(tmp_path / "disk", "1m", HOME).splitlines()[-1])
    assert said == [True, True, "1\n", "3", 1, []]


def test_postgres_runs_on_is_adopted_and_comes_back(tmp_path: Path) -> None:
    said = json.loads(python_on_disk(tmp_path / "disk", "128m", POSTGRES).splitlines()[-1])
    assert "PostgreSQL's disk is full" in said.pop("refused")
    assert said == {"room": "", "full": True, "adopted": True, "down": True, "kept": 7}


def test_a_bill_that_finds_no_room_is_written_when_there_is_some(tmp_path: Path) -> None:
    said, refused, whole, many, left = json.loads(python_on_disk(tmp_path / "disk", "1m", SPOOL))
    assert "can't be written (No space left on device)" in said
    assert "nothing new begins" in refused
    assert whole
    assert many
    assert left == []
