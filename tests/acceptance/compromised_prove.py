"""A node that was taken over, among three in network namespaces: what its certificate gets it.

    scripts/prove compromised [SECONDS] [--seed N] [--keep]

n1 and n2 are doors, control and workers; n3 is a worker, and its certificate says so. A tenant
asks at n1 and n2. Then n3's own processes are stopped, and a process with n3's certificate says all
that it can encode (`tests/support/turned_words.py`) to every process of n1 and n2 for SECONDS (60),
and is told what is not its own to know: the ids and fencing tokens of all jobs that run. It offers
no worker of its own for the tenant's model: who does is sent prompts, and that is what a worker is
for (docs/security.md).

Nothing may change but what a worker may say, no byte that n3 is sent may hold the tenant's key or
its prompts, and audit logs and metrics must tell. At last n3's certificate is revoked. Needs root
and iproute2, takes SECONDS and a minute more, and leaves nothing behind. Prints what was done and
what was seen, and ends with 1 if anything does not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final
from urllib.request import urlopen

import asyncpg
import msgspec

from actors.contracts import (
    BreakerStates,
    ClusterShown,
    ShowBreakers,
    ShowCluster,
    ShowModels,
    WatchCatalog,
)
from actors.contracts.operating import BreakerState
from actors.core.node_roles import WORKER
from bench.contracts import PEERS, declared
from supervision.contracts import ShowTree, Tree, WatchTree
from supervision.contracts.operating import Inspect, Inspected
from supervision.runtime import Endpoint
from supervision.security.authority import Authority
from supervision.telemetry import audit
from tests.acceptance.cluster_prove import Proof, database
from tests.support.cluster_load import TOKENS, Load
from tests.support.cluster_process import Member
from tests.support.netns import Network
from tests.support.node_process import environment
from tests.support.node_process import tether as command

ROLES: Final = {"n1": "door,control,worker", "n2": "door,control,worker", "n3": "worker"}
SOUND: Final = ("n1", "n2")
TURNED: Final = "n3"
GROWTH_MIB: Final = 96.0  # of any process of the others, above what it had before
PATIENCE_S: Final = 60.0
METRIC: Final = re.compile(r"^(\w+)(?:\{(.*)\})? ([0-9.e+]+)$", re.MULTILINE)
KEPT: Final = ("tenants", "api_keys", "models", "model_changes", "breakers")
CONFIG: Final = """
[node]
data_dir = "data/{{node}}"
identity_dir = "{folder}/ca/nodes/{{node}}"
metrics = "{{host}}:9464"
warm_spares = 0
[http]
host = "{{host}}"
port = 8080
[limits]
requests_per_minute = 1000000
{stores}
[[models]]
name = "echo"
engine = "echo"
[[workers]]
id = "echo"
models = ["echo"]
slots = 32
"""
NODE: Final = """
[[nodes]]
id = "{id}"
host = "{host}"
roles = [{roles}]
region = "near"
leader = {leader}
"""


class Standing(msgspec.Struct):
    """A node, as its own processes and the system see it."""

    tree: dict[str, tuple[int, str, int, int]]  # pid, address, generation, restarts
    actors: dict[str, tuple[str, str]]  # state, log level
    breakers: BreakerStates
    models: Any
    fleet: dict[str, tuple[str, bool]]  # of all nodes: address, whether it drains
    pids: dict[int, str]  # all of its processes; with the paths of those in the tree


class Story:
    """The three nodes on `network`, whose namespaces are there."""

    def __init__(self, folder: Path, network: Network, dsn: str, proof: Proof) -> None:
        self.folder, self.network, self.dsn, self.proof = folder, network, dsn, proof
        self.members = {
            node: Member(folder / node, node, inside=network.inside(node)) for node in ROLES
        }
        self.key = ""
        self.word = f"canary{secrets.token_hex(12)}"
        self.turned: asyncio.subprocess.Process | None = None
        self._write()

    def _write(self) -> None:
        made = [command("ca", "init", "ca", "--cluster", "tether", cwd=self.folder)]
        for node, roles in ROLES.items():
            made.append(
                command("ca", "issue", node, "--ca", "ca", "--roles", roles, cwd=self.folder)
            )
        assert not any(one.returncode for one in made), [one.stderr for one in made]
        nodes = "".join(
            NODE.format(
                id=node, host=self.network.hosts[node], leader=str(node != TURNED).lower(),
                roles=", ".join(f'"{role}"' for role in roles.split(",")),
            )
            for node, roles in ROLES.items()
        )  # fmt: skip
        for node, member in self.members.items():
            member.folder.mkdir()
            stores = f'[stores]\npostgres = "{self.dsn}"' if node in SOUND else ""
            text = CONFIG.format(folder=self.folder, stores=stores) + nodes
            (member.folder / "cluster.toml").write_text(text)

    # ---- looking

    @asynccontextmanager
    async def inside(self, node: str) -> AsyncIterator[tuple[Endpoint, Tree]]:
        state = self.members[node].state
        async with Endpoint.connect(
            run_dir=state["run_dir"], node=node, port=state["admin_port"], timeout=30
        ) as endpoint:
            yield endpoint, await endpoint.ask(state["root"], ShowTree(), timeout=30)

    async def stands(self, node: str) -> Standing:
        async with self.inside(node) as (endpoint, tree):
            actors: dict[str, tuple[str, str]] = {}
            for one in tree.nodes:
                seen: Inspected = await endpoint.ask(one.address, Inspect(), timeout=30)
                actors[one.path] = (seen.state, seen.log_level)

            async def asked(path: str, contract: Any) -> Any:
                return await endpoint.ask(tree.address(path) or "", contract, timeout=30)

            cluster: ClusterShown = await asked("control/roster", ShowCluster())
            return Standing(
                tree={n.path: (n.pid, n.address, n.generation, n.restarts) for n in tree.nodes},
                actors=actors,
                breakers=_settings(await asked("control/scheduler", ShowBreakers())),
                models=await asked("control/registry", ShowModels(history=True)),
                fleet={
                    f"{n.node}/{w.worker_id}": (w.address, w.draining or n.draining)
                    for n in cluster.nodes
                    for w in n.workers
                    if n.node in SOUND
                },
                pids={
                    pid: next((n.path or "root" for n in tree.nodes if n.pid == pid), "")
                    for pid in self.members[node].pids()
                },
            )

    async def rows(self, statement: str, *more: Any) -> list[Any]:
        connection = await asyncpg.connect(self.dsn)
        try:
            return list(await connection.fetch(statement, *more))
        finally:
            await connection.close()

    async def one(self, statement: str, *more: Any) -> Any:
        return (await self.rows(statement, *more))[0][0]

    async def tables(self) -> dict[str, str]:
        """A digest of each of those that no request changes."""
        digest = "SELECT coalesce(md5(string_agg(t::text, ' ' ORDER BY t::text)), '') FROM {} t"
        return {table: await self.one(digest.format(table)) for table in KEPT}

    def revocations(self, node: str) -> dict[str, bytes]:
        folder = self.members[node].home / "revoked"
        return {p.name: p.read_bytes() for p in folder.glob("*")} if folder.is_dir() else {}

    def metric(self, node: str, name: str, label: str = "") -> dict[str, float]:
        """By its labels, where they have `label`."""
        with urlopen(f"http://{self.network.hosts[node]}:9464/metrics", timeout=30) as answer:
            text = answer.read().decode()
        return {
            found[2] or "": float(found[3])
            for found in METRIC.finditer(text)
            if found[1] == name and label in (found[2] or "")
        }

    # ---- doing

    async def tell(self, seconds: float, seed: int) -> None:
        for node in ROLES:
            self.members[node].start()
        for node in ROLES:
            await asyncio.to_thread(self.members[node].wait_ready, 180)
        made = command("keys", "create", "acme", "--node", "n1", cwd=self.members["n1"].folder)
        assert made.returncode == 0, made.stderr
        self.key = made.stdout.strip()
        doors = {node: f"http://{self.network.hosts[node]}:8080" for node in SOUND}
        load = Load(doors, self.key, streams=3, word=self.word)
        load.start()
        try:
            await self.joined()
            await asyncio.to_thread(self.members[TURNED].stop)
            before = {node: await self.stands(node) for node in SOUND}
            resident = {pid: _fresh_peak_mib(pid) for one in before.values() for pid in one.pids}
            tables = await self.tables()
            revoked = {node: self.revocations(node) for node in SOUND}
            self.proof.row("stop n3's own processes", f"{load.whole()} answers so far")
            began = time.monotonic()
            summary = await self.turn(seconds, seed)
            self.said(summary)
            await self.hoarded()
            whole, lost = load.whole(began), load.lost(began)
            self.proof.row(
                "  the tenant at n1 and n2 meanwhile", f"{whole} whole answers, {len(lost)} lost",
                good=whole > seconds and not lost,
            )  # fmt: skip
            for outcome in lost[:5]:
                print(f"      {outcome.node}: {outcome.answer}"[:300], flush=True)
        finally:
            await load.stop()
        for node in SOUND:
            self.unchanged(node, before[node], await self.stands(node), resident)
        now = await self.tables()
        self.proof.row(
            "  keys, models, breakers in PostgreSQL", "as before" if now == tables else
            f"changed: {[t for t in KEPT if now[t] != tables[t]]}", good=now == tables,
        )  # fmt: skip
        same = {node: self.revocations(node) for node in SOUND} == revoked
        self.proof.row("  revocation lists", "as before" if same else "changed", good=same)
        await self.billed(load)
        self.received()
        for node in SOUND:
            self.told(node)
        await self.shut_out()

    async def joined(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not await self.one("SELECT count(*) >= 3 FROM jobs WHERE worker_id = 'echo.n3'"):  # noqa: ASYNC110
                await asyncio.sleep(0.2)
        count = await self.one("SELECT count(*) FROM jobs WHERE worker_id = 'echo.n3'")
        self.proof.row("three nodes, a tenant at n1 and n2", f"n3's worker has run {count} jobs")

    async def turn(self, seconds: float, seed: int) -> dict[str, Any]:
        """The process that has n3's certificate, from its start until it has said all."""
        fake = Authority.init(self.folder / "fake", "tether")
        fake.issue("n1", roles=("control",))
        fake.revoke("n1")
        lists = [path.read_text() for path in (self.folder / "ca/crl.pem", fake.folder / "crl.pem")]
        hosts = self.network.hosts
        told = {
            "node": TURNED, "host": hosts[TURNED], "identity": f"{self.folder}/ca/nodes/{TURNED}",
            "others": {node: hosts[node] for node in SOUND},
        }  # fmt: skip
        (self.folder / "turned.json").write_text(json.dumps(told))
        leak = asyncio.create_task(self._leak(lists))
        await asyncio.sleep(1.0)
        self.turned = await asyncio.create_subprocess_exec(
            *self.network.inside(TURNED), sys.executable, "-m", "tests.support.turned_node",
            str(self.folder), str(seconds), "--seed", str(seed), stdout=asyncio.subprocess.PIPE,
            stderr=(self.folder / "turned.log").open("wb"), env=environment(),
        )  # fmt: skip
        try:
            found: dict[str, Any] = json.loads(await self._line())
        finally:
            leak.cancel()
        return found

    async def _line(self) -> bytes:
        assert self.turned is not None
        assert self.turned.stdout is not None
        line = await self.turned.stdout.readline()
        assert line, (self.folder / "turned.log").read_text()[-4000:]
        return line

    async def _leak(self, lists: list[str]) -> None:
        """What runs, as if somebody had told n3: it knows the ids and tokens of all jobs."""
        path = self.folder / "world.json"
        while True:
            leases = await self.rows(
                "SELECT job_id::text, retry_token, l.fence, l.worker_id, l.worker_address "
                "FROM leases l JOIN jobs j ON j.id = l.job_id"
            )
            fresh = path.with_suffix(".new")
            fresh.write_text(json.dumps({"leases": [dict(row) for row in leases], "lists": lists}))
            fresh.replace(path)
            await asyncio.sleep(0.3)

    # ---- telling

    def said(self, summary: dict[str, Any]) -> None:
        said: dict[str, int] = summary["said"]
        rounds = said.pop("rounds", 0)
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(said.items()))
        self.proof.row(
            "a process with n3's certificate says all",
            f"{counts}, in {rounds} rounds",
            good=min(said.get(kind, 0) for kind in ("tell", "ask", "stream", "system", "raw"))
            > 100,
        )
        print(f"      how it ended: {summary['came_to']}", flush=True)
        worker = PEERS[WORKER].mask
        may = {one.contract.__name__ for one in declared() if one.audience.admits(worker)}
        taken = {name: count for name, count in summary["obeyed"].items() if count}
        beyond = sorted(set(taken) - may)
        self.proof.row(
            "  what a handler has taken", f"{taken}, and BEYOND its role {beyond}" if beyond else
            f"{', '.join(sorted(taken))}: for a worker to say", good=not beyond,
        )  # fmt: skip
        heard = summary["heard"]
        strange = sorted(
            set(heard) - {"FindActor", "ShowTree", "Announce", "Revocations", "WatchTree"}
        )
        self.proof.row("  what others have said to it", f"{heard}", good=not strange)

    async def hoarded(self) -> None:
        """n3 holds as many streams as it gets; n1 and n2 still watch their own trees."""
        took = json.loads(await self._line())["hoarded"]
        seen = 0
        for node in SOUND:
            async with self.inside(node) as (endpoint, tree):
                for path, contract in (("", WatchTree()), ("control/registry", WatchCatalog())):
                    to = self.members[node].state["root"] if not path else tree.address(path)
                    stream = endpoint.stream(to, contract, credit=1)
                    async with asyncio.timeout(PATIENCE_S):
                        seen += bool(await anext(stream))
                    stream.close()
        self.proof.row(
            "  it opens streams and holds them", f"{took}; n1 and n2 still open {seen} of 4",
            good=seen == 4 and sum(took.values()) > 4000,
        )  # fmt: skip

    def unchanged(
        self, node: str, before: Standing, now: Standing, resident: dict[int, float]
    ) -> None:
        for what in ("tree", "actors", "breakers", "models", "fleet"):
            old, new = getattr(before, what), getattr(now, what)
            seen = "as before"
            if isinstance(old, dict):
                seen = f"{len(old)} {'lines' if what == 'tree' else 'entries'} as before"
                others = [k for k in {*old, *new} if old.get(k) != new.get(k)]
                if others:
                    seen = f"CHANGED {[(k, old.get(k), new.get(k)) for k in others]}"
            elif old != new:
                seen = f"{old} was {new}"
            named = {"tree": "pids and restarts", "actors": "states and log levels"}.get(what, what)
            self.proof.row(f"  {node}: {named}", seen, good=old == new)
        live = before.pids.keys() <= now.pids.keys()
        self.proof.row(f"  {node}: processes", f"{len(before.pids)}, all live", good=live)
        peaks = {pid: _memory_mib(pid, "VmHWM") for pid in before.pids if pid in now.pids}
        pid = max(peaks, key=lambda one: peaks[one] - resident[one])
        grown = peaks[pid] - resident[pid]
        self.proof.row(
            f"  {node}: memory",
            f"at most {grown:.0f} MiB more than before, {peaks[pid]:.0f} in all, of "
            f"{before.pids[pid] or 'its Admin or launcher'} (bound: {GROWTH_MIB:.0f} more)",
            good=grown <= GROWTH_MIB,
        )
        self.sober(node)

    def sober(self, node: str) -> None:
        """Whatever it was told, no handler met what it didn't foresee."""
        lines = self.members[node].log.read_text(errors="replace").splitlines()
        wild = [
            line
            for line in lines
            if "Traceback" in line
            or ('"level": "error"' in line and "refused a peer of another release" not in line)
        ]
        self.proof.row(
            f"  {node}: its log", f"{len(lines)} lines, {len(wild)} of faults", good=not wild
        )
        for line in wild[:3]:
            print(f"      {line[:1500]}", flush=True)

    async def billed(self, load: Load) -> None:
        """Every answer has one job that was completed, and one row of the ledger, of its tokens."""
        tokens = [one.answer.token for one in load.outcomes if one.whole]
        settled = await self.one(
            "SELECT count(*) FROM jobs j JOIN ledger l ON l.job_id = j.id WHERE j.retry_token = "
            "ANY($1) AND j.outcome = 'completed' AND l.output_tokens = $2", tokens, TOKENS,
        )  # fmt: skip
        async with asyncio.timeout(PATIENCE_S):
            while await self.one("SELECT count(*) FROM leases"):  # noqa: ASYNC110
                await asyncio.sleep(0.2)
        ledger = await self.one("SELECT count(*) FROM ledger")
        jobs = await self.one("SELECT count(*) FROM jobs")
        self.proof.row(
            "  each answer billed once, as it was",
            f"{len(set(tokens))} answers, {settled} of their jobs with {TOKENS} tokens; "
            f"{ledger} bills of {jobs} jobs in all",
            good=len(set(tokens)) == len(tokens) == settled == ledger == jobs,
        )

    def received(self) -> None:
        held = (self.folder / "received").read_bytes()
        secret = {"the key": self.key, "a prompt": self.word}
        found = [name for name, word in secret.items() if word.encode() in held]
        self.proof.row(
            "  what n3 was sent", f"{len(held) / 1e6:.1f} MB, with "
            f"{' and '.join(found) if found else 'neither the key nor a prompt'}",
            good=not found and len(held) > 100_000,
        )  # fmt: skip

    def told(self, node: str) -> None:
        refused = self.metric(node, "tether_contracts_refused_total", f'node="{TURNED}"')
        of_system = self.metric(node, "tether_system_refused_total", 'reason="sender"')
        system = sum(of_system.values())
        self.proof.row(
            f"  {node}: the metrics",
            f"{sum(refused.values()):.0f} of {len(refused)} contracts by n3 refused; of Thespian's "
            f"{system:.0f}",
            good=sum(refused.values()) > 100 and system > 100,
        )
        entries = audit.read(self.members[node].home / audit.NAME)
        named = Counter(
            entry.arguments[0]
            for entry in entries
            if entry.command == "say" and entry.who.certificate == TURNED
        )
        must = {"SetBreaker", "ChildChanged", "Reserve"}
        self.proof.row(
            f"  {node}: the audit log", f"{sum(named.values())} lines name n3, with {len(named)} "
            "contracts", good=len(named) > len(must) and must <= named.keys(),
        )  # fmt: skip

    async def shut_out(self) -> None:
        revoked = command("ca", "revoke", TURNED, "--ca", "ca", cwd=self.folder)
        assert revoked.returncode == 0, revoked.stderr
        began = time.monotonic()
        shutil.copy(self.folder / "ca/crl.pem", self.folder / "ca/nodes/n1/crl.pem")
        try:
            async with asyncio.timeout(PATIENCE_S):
                last = json.loads(await self._line())
        except TimeoutError:
            self.proof.row("revoke n3, and tell n1", "NOT shut out", good=False)
            return
        took = time.monotonic() - began
        self.proof.row(
            "revoke n3, and tell n1", f"n1 and n2 don't hear it, after {took:.1f} s",
            good=last["shut_out"],
        )  # fmt: skip


def _settings(shown: BreakerStates) -> BreakerStates:
    """What was set, and which are open, of the workers of others; without counts of calls."""

    def still(of: tuple[BreakerState, ...]) -> tuple[BreakerState, ...]:
        return tuple(
            msgspec.structs.replace(one, calls=0, failed=0, until_s=0.0)
            for one in of
            if one.worker_id in {f"echo.{node}" for node in SOUND}
        )

    return BreakerStates(breakers=still(shown.breakers), workers=still(shown.workers))


def _memory_mib(pid: int, what: str) -> float:
    """`VmRSS`, what is resident, or `VmHWM`, the most that ever was; see proc(5)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(what):
            return int(line.split()[1]) / 1024
    return 0.0


def _fresh_peak_mib(pid: int) -> float:
    """What is resident; the peak is counted from now on."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return _memory_mib(pid, "VmRSS")


async def prove(network: Network, folder: Path, seconds: float, seed: int) -> bool:
    proof = Proof()
    with tempfile.TemporaryDirectory(prefix="tp-") as sockets:
        server, dsn = await database(folder, Path(sockets), network.hub)
        story = Story(folder, network, dsn, proof)
        try:
            await story.tell(seconds, seed)
        except BaseException:
            for member in story.members.values():
                if member.log.exists():
                    print(f"---- {member.id}\n{member.tail()}", file=sys.stderr)
            raise
        finally:
            if story.turned is not None and story.turned.returncode is None:
                story.turned.kill()
            for member in story.members.values():
                member.kill()
            await server.stop()
    return proof.holds


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # and clean up on the way
    parser = argparse.ArgumentParser(prog="scripts/prove compromised")
    parser.add_argument("seconds", type=float, nargs="?", default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="the folder with all logs")
    told = parser.parse_args()
    if os.geteuid() != 0 or shutil.which("ip") is None:
        print("network namespaces need root and iproute2", file=sys.stderr)
        return 2
    folder = Path(tempfile.mkdtemp(prefix="tether-prove-"))
    folder.chmod(0o711)
    try:
        with Network(tuple(ROLES)) as network:
            network.enter()
            holds = asyncio.run(prove(network, folder, told.seconds, told.seed))
    finally:
        if told.keep:
            print(f"logs are in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
