"""`scripts/prove disk [SECONDS] [SEED]`: a node whose disk is full for SECONDS (30).

The whole folder of the node (data_dir, configuration, log) is on a small disk of its own. Under
traffic of clients that send each request with a key, and again until it is answered, the disk is
filled; then each kind of actor is killed once, its supervisors and the PostgreSQL server too. While
the disk is full, `/healthz` is 200, `/readyz` is not, and what is refused is told which disk is
full. Then the room is given back: within 5 s the node is ready, all of its tree runs and requests
are answered, and every answer has been billed once in the end. Needs no root: the disk is mounted
in a user namespace of its own. Exits 1 at the first thing that is not as it should be.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import httpx2
from prometheus_client.parser import text_string_to_metric_families

from supervision.contracts import ChildStatus, Tree, TreeNode, WatchTree
from tests.support.node_process import ECHO, Launcher, Node, until, write_config
from tests.support.small_disk import fill, on_disk
from tests.support.termination import clean_up_on_sigterm
from tests.support.waiting import PATIENCE_S, PatientEndpoint

SIZE = "192m"
CLIENTS = 6
TOKENS = 12
DEADLINE_S = 5.0
WITHIN_S = 5.0  # of room until the node is right
PROBE_S = 5.0
AFTER_S = 5.0  # of traffic that must be answered then, every time at once
SERVER = "the PostgreSQL server"
GATEWAY = "control/gateways/0"
ACTORS = (
    "control/reservation", "control/scheduler", GATEWAY, "control/registry", "control/roster",
    "workers/echo-0", "doors/0", "postgres",
)  # fmt: skip
SUPERVISORS = ("control/gateways", "control", "workers", "doors")
MORE = f"processes = 2\ndefault_deadline_s = {DEADLINE_S}\n"


def say(sentence: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {sentence}", flush=True)


@dataclass
class Run:
    """What has been seen so far; times are monotonic."""

    node: Node
    folder: str  # that a refusal must name
    within_s: float
    full_since: float = 0.0
    room_since: float = 0.0
    stop: bool = False
    sent: dict[str, int] = field(default_factory=dict)  # keys: how often
    answered: dict[str, float] = field(default_factory=dict)  # keys: when
    gone: set[str] = field(default_factory=set)  # answered, and nobody holds the answer any more
    refused: Counter[str] = field(default_factory=Counter)  # codes, while the disk was full
    named: int = 0  # of those, how many said which disk
    late: list[str] = field(default_factory=list)  # what went wrong after within_s of room
    first_s: float = 0.0  # from the room to the first answer
    tree: dict[str, TreeNode] = field(default_factory=dict)
    whole_since: float = 0.0  # when all of the tree has run again

    @property
    def full(self) -> bool:
        return bool(self.full_since) and not self.room_since


async def client(run: Run, http: httpx2.AsyncClient, number: int) -> None:
    """One request after the other, each until it is answered."""
    count = 0
    while not run.stop:
        count += 1
        key = f"{number}-{count}"
        while not await ask(run, http, key):
            if run.stop:
                return
            await asyncio.sleep(0.1)
        await asyncio.sleep(0.02)


async def ask(run: Run, http: httpx2.AsyncClient, key: str) -> bool:
    """Send it once; whether that ended it."""
    run.sent[key] = run.sent.get(key, 0) + 1
    body = {
        "model": "echo",
        "messages": [{"role": "user", "content": f"say {key}"}],
        "max_tokens": TOKENS,
    }
    began, was_full = time.monotonic(), run.full
    try:
        answer = await http.post(
            "/v1/chat/completions", json=body, headers={"idempotency-key": key}
        )
        said = answer.json()
    except (httpx2.HTTPError, ValueError) as error:
        return failed(run, began, f"{type(error).__name__}: {error}")
    if answer.status_code == 200:
        assert said["usage"]["completion_tokens"] == TOKENS, said
        assert said["choices"][0]["message"]["content"].split()[:2] == ["say", key], said
        run.answered[key] = time.monotonic()
        if run.room_since and began >= run.room_since and not run.first_s:
            run.first_s = time.monotonic() - run.room_since
        return True
    error = said["error"]
    if error["code"] == "answer_gone":
        run.gone.add(key)
        return True
    assert answer.status_code in (502, 503, 504), said
    if was_full and run.full:
        run.refused[error["code"]] += 1
        run.named += run.folder in error["message"]
    return failed(run, began, f"{answer.status_code} {error['message']}")


def failed(run: Run, began: float, why: str) -> bool:
    if run.room_since and began > run.room_since + run.within_s:
        run.late.append(f"{began - run.room_since:.1f} s after there was room: {why}")
    return False


async def watch(run: Run, endpoint: PatientEndpoint) -> None:
    """Keep the tree, and the moment from which all of it runs."""
    async for tree in endpoint.stream(run.node.state["root"], WatchTree()):
        assert isinstance(tree, Tree)
        run.tree = {node.path: node for node in tree.nodes}
        whole = all(node.state is ChildStatus.RUNNING for node in tree.nodes)
        run.whole_since = (run.whole_since or time.monotonic()) if whole else 0.0


async def probe(run: Run, http: httpx2.AsyncClient, path: str) -> int:
    """The status; 0 while a door was killed."""
    try:
        return (await http.get(path)).status_code
    except httpx2.HTTPError:
        return 0


async def kill(run: Run, victim: str) -> None:
    """SIGKILL it; one that is down at the moment is waited for."""
    if victim == SERVER:
        pid_file = run.node.folder / ".tether/postgres/cluster/postmaster.pid"
        pid = int(pid_file.read_text().splitlines()[0])
    else:

        async def has_process() -> bool:
            assert run.node.process.poll() is None, f"the node has ended:\n{run.node.tail()}"
            return victim in run.tree and run.tree[victim].pid > 0

        await until(has_process, f"{victim} has a process")
        pid = run.tree[victim].pid
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    say(f"  killed {victim} (pid {pid})")


def chosen(draw: random.Random, kills: int) -> list[str]:
    """Whom to kill, in this order."""
    victims = [*ACTORS, *SUPERVISORS]
    draw.shuffle(victims)
    # The server can't come back until the end, and nobody starts after it who needs it to start:
    # a gateway whose supervisor, or the registry, was lost would have no process to kill.
    victims.remove(GATEWAY)
    victims = [GATEWAY, *victims]
    victims.insert(1 + draw.randrange(min(kills - 1, len(victims) // 2)), SERVER)
    return victims[:kills]


async def outage(run: Run, http: httpx2.AsyncClient, seconds: float, victims: list[str]) -> None:
    """Fill the disk, kill one after the other, give the room back."""
    ballast = fill(run.node.folder)
    run.full_since = time.monotonic()
    say(f"the disk is full; {len(victims)} kills in {seconds:.0f} s: {', '.join(victims)}")
    statuses: Counter[tuple[str, int]] = Counter()
    for number, victim in enumerate(victims):
        await asyncio.sleep(
            max(0.0, run.full_since + seconds * (number + 0.5) / len(victims) - time.monotonic())
        )
        fill(run.node.folder)  # what was let go of by the last one
        assert run.node.process.poll() is None, f"the node has ended:\n{run.node.tail()}"
        await kill(run, victim)
        for path in ("/healthz", "/readyz"):
            statuses[path, await probe(run, http, path)] += 1
    await asyncio.sleep(max(0.0, run.full_since + seconds - time.monotonic()))
    for path in ("/healthz", "/readyz"):
        statuses[path, await probe(run, http, path)] += 1
    said = (await http.get("/readyz")).json()
    ballast.unlink()
    run.room_since = time.monotonic()
    say(f"there is room again, after {run.room_since - run.full_since:.1f} s; probes: {statuses}")
    say(f"refused meanwhile: {dict(run.refused)}, of which {run.named} named the disk")
    assert said == {"status": "disk_full", "models": 0}
    assert not statuses["/readyz", 200], "it was ready without a disk"
    assert {status for path, status in statuses if path == "/healthz"} <= {0, 200}, statuses
    assert run.refused["disk_full"] > 0 and run.named > 0, run.refused


async def recovery(run: Run, http: httpx2.AsyncClient) -> None:
    """Ready, whole and answering, in time."""
    ready_s = 0.0
    while not (ready_s and run.whole_since > 0 and run.first_s):
        since = time.monotonic() - run.room_since
        if not ready_s and await probe(run, http, "/readyz") == 200:
            ready_s = since
        down = {
            n.path: f"{n.state}, {n.last_exit}"
            for n in run.tree.values()
            if n.state is not ChildStatus.RUNNING
        }
        assert since < run.within_s + PATIENCE_S, f"it never came back: {down}"
        await asyncio.sleep(0.02)
    whole_s = max(0.0, run.whole_since - run.room_since)
    say(
        f"after the room: first answer {run.first_s:.2f} s, ready {ready_s:.2f} s, "
        f"all of the tree {whole_s:.2f} s"
    )
    assert max(ready_s, whole_s, run.first_s) <= run.within_s, "that was too late"
    await asyncio.sleep(AFTER_S)
    assert not run.late, f"{len(run.late)} failed, such as {run.late[:3]}"


async def books(run: Run) -> None:
    """Every answer is billed once, and nothing else is."""
    connection = await asyncpg.connect(run.node.state["dsn"])
    try:

        async def settled() -> bool:
            open_jobs = "SELECT count(*) FROM jobs WHERE state <> 'settled'"
            leases = await connection.fetchval("SELECT count(*) FROM leases")
            return bool(leases == 0 and await connection.fetchval(open_jobs) == 0)

        await until(settled, "all jobs are settled", 3 * PATIENCE_S)
        rows = await connection.fetch(
            "SELECT j.retry_token AS key, j.outcome, count(l.*) AS times, "
            "sum(l.output_tokens) AS tokens FROM jobs j LEFT JOIN ledger l ON l.job_id = j.id "
            "GROUP BY j.id"
        )
    finally:
        await connection.close()
    billed = {row["key"]: row for row in rows}
    assert len(billed) == len(rows), "a key has two jobs"
    assert not (twice := [key for key, row in billed.items() if row["times"] > 1]), twice
    unbilled = [k for k in (*run.answered, *run.gone) if k not in billed or not billed[k]["times"]]
    assert not unbilled, f"answered and not billed: {unbilled}"
    assert not (wrong := [k for k in run.answered if billed[k]["tokens"] != TOKENS]), wrong
    extra = [k for k, row in billed.items() if row["times"] and k not in run.sent]
    assert not extra, f"billed and never asked: {extra}"
    outcomes = Counter(row["outcome"] for row in rows)
    say(
        f"{len(run.sent)} requests, sent {sum(run.sent.values())} times: {len(run.answered)} "
        f"answered, {len(run.gone)} of which the answer was gone; jobs {dict(outcomes)}; "
        "each answer billed once"
    )


async def metrics(run: Run, http: httpx2.AsyncClient) -> None:
    """No supervisor has given up, and what happened was counted."""
    text = (await http.get(run.node.metrics)).text
    samples = [s for f in text_string_to_metric_families(text) for s in f.samples]

    def total(name: str, **labels: str) -> float:
        return sum(
            s.value for s in samples if s.name == name and labels.items() <= s.labels.items()
        )

    restarts = {
        s.labels["path"]: int(s.value) for s in samples if s.name == "tether_child_restarts_total"
    }
    excused = total("tether_child_excused_total", path="postgres", excuse="disk_full")
    unwritten = {
        s.labels["what"]: int(s.value) for s in samples if s.name == "tether_unwritten_total"
    }
    say(f"restarts: {restarts}; PostgreSQL excused {excused:.0f} times; unwritten: {unwritten}")
    assert total("tether_supervision_events_total", event="child.gave_up") == 0
    assert excused > 0
    assert total("tether_disk_full") == 0


@asynccontextmanager
async def running(node: Node, within_s: float) -> AsyncIterator[Run]:
    run = Run(node, str(node.folder / ".tether" / "postgres"), within_s)
    state = node.state
    limits = httpx2.Limits(max_connections=64, max_keepalive_connections=0)
    async with (
        httpx2.AsyncClient(
            base_url=node.url, headers=node.headers, timeout=DEADLINE_S + 5.0, limits=limits
        ) as http,
        PatientEndpoint.connect(
            run_dir=state["run_dir"], node=state["node"], port=state["admin_port"]
        ) as endpoint,
    ):
        watching = asyncio.create_task(watch(run, endpoint))
        clients = [asyncio.create_task(client(run, http, n)) for n in range(CLIENTS)]
        try:
            yield run
        finally:
            run.stop = True
            watching.cancel()
            await asyncio.gather(watching, *clients, return_exceptions=True)


async def prove(node: Node, seconds: float, victims: list[str], within_s: float) -> None:
    async with running(node, within_s) as run, httpx2.AsyncClient(
        base_url=node.url, timeout=PROBE_S
    ) as http:  # fmt: skip
        await asyncio.sleep(1.0)
        assert run.answered, "nothing was answered before"
        kept = (node.folder / ".tether/node.json").read_bytes()
        await outage(run, http, seconds, victims)
        await recovery(run, http)
        run.stop = True
        await books(run)
        await metrics(run, http)
        assert node.process.poll() is None
        assert (node.folder / ".tether/node.json").read_bytes() == kept
        assert (node.folder / ".tether/layout").read_text() == "1\n"


def main(seconds: float, seed: int, within_s: float, kills: int) -> None:
    say(f"seed {seed}")
    victims = chosen(random.Random(seed), kills)
    folder = Path.cwd()
    write_config(folder, models=ECHO + "count = 2\n", more=MORE)
    launcher = Launcher()
    try:
        node = launcher(folder)
        asyncio.run(prove(node, seconds, victims, within_s))
        assert node.stop() == 0
        again = launcher(folder)
        assert asyncio.run(again.sql("SELECT count(*) FROM ledger")) > 0
        assert again.stop() == 0
        say("stopped in order, and started again from what is on the disk")
    finally:
        for node in launcher.nodes:
            if node.process.poll() is not None and node.process.returncode:
                print(node.tail(), file=sys.stderr)
        launcher.close()


def inside(
    folder: Path, seconds: float, seed: int, within_s: float = WITHIN_S, kills: int = 99
) -> list[str]:
    """The command that proves it in `folder`, which becomes a small disk."""
    here = Path(__file__).resolve()
    paths = [str(here.parents[2]), str(here.parent)]
    code = (
        f"import os, sys; os.chdir(sys.argv[1]); sys.path[:0] = {paths}; import disk_prove; "
        f"disk_prove.main({seconds}, {seed}, {within_s}, {kills})"
    )
    return on_disk(folder, SIZE, sys.executable, "-c", code, str(folder))


if __name__ == "__main__":
    clean_up_on_sigterm()
    wanted = float(sys.argv[1]) if len(sys.argv) > 1 else 30.0
    drawn = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(10**6)
    with tempfile.TemporaryDirectory(prefix="tether-disk-") as scratch:
        command = inside(Path(scratch) / "disk", wanted, drawn)
        sys.exit(os.spawnvp(os.P_WAIT, command[0], command))
