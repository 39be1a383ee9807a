"""Three nodes in two regions, in network namespaces: join, place, cut, kill, and look at the wire.

    scripts/prove cluster

Needs root (namespaces) and iproute2; takes about four minutes and leaves nothing behind. Prints
what was done and what was seen, and ends with 1 if anything does not hold.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import asyncpg
import httpx2

import actors.stores.embedded as embedded
from actors.contracts import ClusterShown, ShowCluster
from actors.stores.database_cluster import ACCESS_FILE
from supervision.contracts import ShowTree, Tree
from supervision.errors import TetherError
from supervision.runtime import Endpoint
from tests.support.capture import Capture
from tests.support.cluster_load import Load
from tests.support.cluster_process import Member, certify
from tests.support.netns import SUBNET, Network
from tests.support.node_process import tether as command
from tests.support.proof_table import Proof
from tests.support.sse import Answer, chat, echoed
from tests.support.termination import clean_up_on_sigterm

NODES: Final = ("n1", "n2", "n3")
CUT_S: Final = 30.0
SETTLED_S: Final = 10.0
PATIENCE_S: Final = 90.0
KEPT: Final = "delay=50 an answer that a client keeps asking for"
KEPT_TOKENS: Final = 100
CONFIG: Final = """
[node]
data_dir = "data/{{node}}"
identity_dir = "ca/nodes/{{node}}"
metrics = "{{host}}:9464"
[http]
host = "{{host}}"
port = 8080
[stores]
postgres = "{dsn}"
[[nodes]]
id = "n1"
host = "{n1}"
region = "near"
leader = true
[[nodes]]
id = "n2"
host = "{n2}"
region = "near"
leader = true
capabilities = {{ gpu_class = "a100", vram_gb = 80 }}
[[nodes]]
id = "n3"
host = "{n3}"
region = "far"
leader = true
[[models]]
name = "echo"
engine = "echo"
[[models]]
name = "placed"
engine = "echo"
[[workers]]
id = "echo"
models = ["echo"]
slots = 64
[[workers]]
id = "big"
models = ["placed"]
requires = {{ gpu_class = "a100", vram_gb = 40 }}
"""


class Story:
    """A cluster on `network`, from its first node to its last."""

    def __init__(self, folder: Path, network: Network, dsn: str, proof: Proof) -> None:
        self.network, self.dsn, self.proof = network, dsn, proof
        self.members = {node: Member(folder, node, inside=network.inside(node)) for node in NODES}
        self.folder = folder
        self.doors = {node: f"http://{network.hosts[node]}:8080" for node in NODES}
        self.key = ""

    # ---- looking

    async def shown(self, node: str) -> ClusterShown | None:
        """The cluster as `node` sees it; None while it can't say."""
        state = self.members[node].state
        if not state.get("root"):
            return None
        try:
            async with Endpoint.connect(
                run_dir=state["run_dir"], node=node, port=state["admin_port"], timeout=5
            ) as endpoint:
                tree: Tree = await endpoint.ask(state["root"], ShowTree())
                roster = tree.address("control/roster")
                if roster is None:
                    return None
                shown: ClusterShown = await endpoint.ask(roster, ShowCluster())
                return shown
        except TetherError:
            return None

    async def sees(self, node: str, **states: str) -> bool:
        """Does `node` see these nodes in these states ("alive leads", "gone")?"""
        shown = await self.shown(node)
        if shown is None:
            return False
        found = {n.node: f"{n.state}{' leads' if n.leads else ''}" for n in shown.nodes}
        return all(found.get(other) == state for other, state in states.items())

    async def state(self, node: str, other: str) -> str:
        shown = await self.shown(node)
        return next((n.state for n in shown.nodes if n.node == other), "") if shown else "?"

    async def placed(self, supervisor: str) -> str:
        """The address of the worker with requirements, if it is of this node's tree."""
        try:
            state = self.members[supervisor].state
            async with Endpoint.connect(
                run_dir=state["run_dir"], node=supervisor, port=state["admin_port"], timeout=5
            ) as endpoint:
                tree: Tree = await endpoint.ask(state["root"], ShowTree())
        except (TetherError, KeyError):
            return ""
        return tree.address("workers/big.near") or ""

    async def answers(self, node: str, model: str, prompt: str = "hello there") -> bool:
        async with httpx2.AsyncClient(
            base_url=self.doors[node], headers={"authorization": f"Bearer {self.key}"}, timeout=60
        ) as client:
            return (await chat(client, prompt, model=model, max_tokens=8)).complete

    async def sql(self, statement: str) -> Any:
        connection = await asyncpg.connect(self.dsn)
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    async def within(
        self, condition: Callable[[], Awaitable[bool]], patience_s: float = PATIENCE_S
    ) -> float | None:
        """Seconds until it holds; None if it doesn't."""
        began = time.monotonic()
        while time.monotonic() - began < patience_s:
            if await condition():
                return time.monotonic() - began
            await asyncio.sleep(0.1)
        return None

    async def row(self, done: str, seen: str, condition: Callable[[], Awaitable[bool]]) -> None:
        """`seen` within the patience, or not."""
        took = await self.within(condition)
        if took is None:
            self.proof.row(done, f"NOT within {PATIENCE_S:.0f} s: {seen}", good=False)
        else:
            self.proof.row(done, f"{seen}, after {took:.1f} s")

    # ---- doing

    async def start(self, *nodes: str) -> None:
        for node in nodes:
            self.members[node].start()
        for node in nodes:
            await asyncio.to_thread(self.members[node].wait_ready, 180)

    async def tell(self) -> None:
        """All of it."""
        await self.start(*NODES)
        made = command("keys", "create", "acme", cwd=self.folder)
        assert made.returncode == 0, made.stderr
        self.key = made.stdout.strip()
        await self.join()
        await self.wire()
        load = Load(self.doors, self.key)
        load.start()
        try:
            await self.cut(load)
            await self.kill_leader(load)
            await self.kill_worker(load)
        finally:
            await load.stop()
        await self.end(load)

    async def join(self) -> None:
        async def together() -> bool:
            return (
                await self.sees("n1", n2="alive", n3="alive leads")
                and await self.sees("n2", n1="alive leads", n3="alive leads")
                and await self.sees("n3", n1="alive leads", n2="alive")
            )

        await self.row(
            "three nodes of two regions start", "all see all; n1 leads near, n3 far", together
        )

        async def there() -> bool:
            return (await self.placed("n1")).startswith("n2/")

        await self.row(
            "n1 places what requires an a100", "its worker runs at n2, of n1's tree", there
        )
        for node in NODES:

            async def model(node: str = node) -> bool:
                return await self.answers(node, "placed")

            await self.row(f"ask for its model at the door of {node}", "answered", model)

    async def wire(self) -> None:
        """A prompt that no one may read between nodes."""
        canary = f"canary-{secrets.token_hex(12)}"
        hosts = set(self.network.hosts.values())
        with Capture() as capture:
            for _ in range(10):
                for node in ("n1", "n3"):  # its worker is at n2
                    await self.answers(node, "placed", f"{canary} sings")
            await asyncio.sleep(0.5)
        word = canary.encode()
        clients = capture.between({self.network.hub}, hosts).count(word)
        between = capture.between(hosts, hosts)
        self.proof.row(
            "20 prompts with a canary, captured",
            f"{clients} in plaintext from client to door: the capture sees what is to be seen",
            good=clients == 20,
        )
        self.proof.row(
            "  the same between nodes",
            f"{between.count(word)} in {len(between) / 1e3:.0f} kB of TLS",
            good=word not in between and len(between) > 10_000,
        )

    async def cut(self, load: Load) -> None:
        began = time.monotonic()
        self.network.link("n3", up=False)
        states: set[str] = set()
        while time.monotonic() - began < CUT_S:
            states.add(await self.state("n1", "n3"))
            await asyncio.sleep(0.2)
        self.network.link("n3", up=True)
        self.proof.row(
            f"cut the link of n3 for {CUT_S:.0f} s, under load",
            f"n1 saw n3 {', '.join(sorted(states))}",
            good="gone" in states or "suspect" in states,
        )

        async def healed() -> bool:
            return (
                await self.sees("n1", n3="alive leads")
                and await self.sees("n3", n1="alive leads", n2="alive")
                and await self.answers("n3", "echo")
            )

        await self.row("  heal it", "n1 and n3 see each other, n3 answers", healed)
        load.absent("n3", began, time.monotonic())
        self._tell_load("  requests at n1 and n2", load, began)

    async def kept(self, node: str, token: str) -> Answer:
        """An answer of some seconds, for a client that may ask again."""
        async with httpx2.AsyncClient(
            base_url=self.doors[node],
            headers={"authorization": f"Bearer {self.key}", "idempotency-key": token},
            timeout=60,
        ) as client:
            return await chat(client, KEPT, max_tokens=KEPT_TOKENS)

    async def kill_leader(self, load: Load) -> None:
        tokens = [f"kept-{secrets.token_hex(8)}" for _ in range(6)]
        first = [asyncio.create_task(self.kept("n1", token)) for token in tokens]
        quoted = ", ".join(f"'{token}'" for token in tokens)
        under_way = f"SELECT count(*) FROM jobs WHERE retry_token IN ({quoted})"
        leased = under_way.replace("FROM jobs", "FROM leases l JOIN jobs j ON j.id = l.job_id")
        await self.within(lambda: self._holds(f"{leased} HAVING count(*) = {len(tokens)}"))
        here = await self.sql(f"{under_way} AND worker_id LIKE '%.n1'")
        began = time.monotonic()
        await asyncio.to_thread(self.members["n1"].kill)
        await asyncio.gather(*first)
        again = await asyncio.gather(*(self.kept("n2", token) for token in tokens))
        whole = sum(a.complete and a.text == echoed(KEPT, KEPT_TOKENS) for a in again)
        jobs = await self.sql(under_way)
        for answer in again:
            if not answer.complete:
                print(f"      {answer.status} {answer.error[:200]}", flush=True)

        async def succeeded() -> bool:
            return await self.sees("n2", n2="here leads")

        async def placed() -> bool:
            return (await self.placed("n2")).startswith("n2/")

        async def gone() -> bool:
            return await self.sees("n2", n1="gone") and await self.sees("n3", n1="gone")

        await self.row("kill -9 n1, the leader, whole, under load", "n2 leads", succeeded)
        self.proof.row(
            "  its door's clients ask again at n2's",
            f"{whole} of {len(tokens)} got their answer, of {jobs} jobs; {here} had run at n1",
            good=whole == jobs == len(tokens),
        )
        await self.row("  the worker that n1 had placed", "n2 has placed it again", placed)
        await self.row("  n1 for the others", "gone", gone)
        load.absent("n1", began, time.monotonic())
        self._tell_load("  requests at n2 and n3", load, began)
        was = await self.placed("n2")
        restarted = time.monotonic()
        await self.start("n1")

        async def back() -> bool:
            return await self.sees("n2", n1="alive leads") and await self.answers("n1", "echo")

        await self.row("  start n1 again", "it leads, and answers", back)
        # It shows that something does not happen, so it can only look for longer than n1 would wait
        # before it places one of its own.
        ends_at, stays = time.monotonic() + SETTLED_S, was != ""
        while stays and time.monotonic() < ends_at:
            stays = await self.placed("n2") == was and not await self.placed("n1")
            await asyncio.sleep(0.5)
        self.proof.row("  the placed worker", "stays where it is: no model is loaded anew", stays)
        load.absent("n1", restarted, time.monotonic())

    async def kill_worker(self, load: Load) -> None:
        """n2's workers run answers of n1's door."""
        running = await self.within(
            lambda: self._holds("SELECT count(*) >= 3 FROM leases WHERE worker_id = 'echo.n2'")
        )
        began = time.monotonic()
        stamp = await self.sql("SELECT now()::text")
        await asyncio.to_thread(self.members["n2"].kill)

        async def gone() -> bool:
            return await self.sees("n1", n2="gone")

        await self.row(
            f"kill -9 n2, whole, {'with' if running is not None else 'WITHOUT'} answers on it",
            "gone for n1", gone,
        )  # fmt: skip
        load.absent("n2", began, time.monotonic() + 3600)
        of_moved = (
            "SELECT count(*) FROM jobs WHERE attempt > 1 AND outcome = 'completed' "
            f"AND created_at > timestamptz '{stamp}' - interval '1 minute'"
        )
        await self.within(lambda: self._holds(f"{of_moved} HAVING count(*) > 0"))
        moved = await self.sql(of_moved)
        self.proof.row(
            "  answers that ran on it for other doors",
            f"{moved} went on elsewhere",
            good=moved > 0,
        )
        self._tell_load("  requests at n1 and n3", load, began)

    async def end(self, load: Load) -> None:
        lost = load.lost()
        for outcome in lost[:5]:
            print(f"      lost at {outcome.node}: {outcome.answer.error[:200]}", flush=True)
        doors = sum(not o.whole for o in load.outcomes) - len(lost)
        self.proof.row(
            "in all", f"{load.whole()} whole answers, {len(lost)} lost; {doors} failed at a door "
            "that was away", good=not lost and load.whole() > 100,
        )  # fmt: skip
        took = await self.within(lambda: self._holds("SELECT count(*) = 0 FROM leases"), 180)
        left = await self.sql("SELECT count(*) FROM leases")
        self.proof.row(
            "at the end", f"{left} leases left"
            + (f", after {took:.1f} s" if took is not None else ""), good=left == 0,
        )  # fmt: skip
        running = await self.sql("SELECT count(*) FROM jobs WHERE state = 'running'")
        self.proof.row("", f"{running} jobs not settled", good=running == 0)
        shown = command("cluster", "status", "--node", "n1", cwd=self.folder)
        print(shown.stdout, flush=True)

    async def _holds(self, statement: str) -> bool:
        return bool(await self.sql(statement))

    def _tell_load(self, done: str, load: Load, since: float) -> None:
        lost = load.lost(since)
        whole = load.whole(since)
        self.proof.row(done, f"{whole} whole, {len(lost)} lost", good=not lost and whole > 10)


async def database(folder: Path, sockets: Path, hub: str) -> tuple[embedded.Embedded, str]:
    """PostgreSQL that listens at the hub."""
    embedded._SETTINGS.update({"listen_addresses": hub, "max_connections": "300"})
    server = embedded.Embedded(folder / "postgres", sockets)
    own = await server.start()
    with (server.data_dir / ACCESS_FILE).open("a") as file:
        file.write(f"\nhost all prove {SUBNET}.0/24 scram-sha-256\n")
    connection = await asyncpg.connect(own)
    try:
        await connection.execute("CREATE ROLE prove SUPERUSER LOGIN PASSWORD 'prove'")
        await connection.execute("SELECT pg_reload_conf()")
    finally:
        await connection.close()
    return server, f"postgresql://prove:prove@{hub}/{embedded.DATABASE}"


async def prove(network: Network, folder: Path) -> bool:
    proof = Proof()
    with tempfile.TemporaryDirectory(prefix="tp-") as sockets:
        server, dsn = await database(folder, Path(sockets), network.hub)
        (folder / "cluster.toml").write_text(CONFIG.format(dsn=dsn, **network.hosts))
        certify(folder, NODES)
        story = Story(folder, network, dsn, proof)
        try:
            await story.tell()
        except BaseException:
            for member in story.members.values():
                if member.log.exists():
                    print(f"---- {member.id}\n{member.tail()}", file=sys.stderr)
            raise
        finally:
            for member in story.members.values():
                member.kill()
            await server.stop()
    return proof.holds


def main() -> int:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        print("network namespaces need root and iproute2", file=sys.stderr)
        return 2
    keep = "--keep" in sys.argv
    folder = Path(tempfile.mkdtemp(prefix="tether-prove-"))
    folder.chmod(0o711)
    try:
        with Network(NODES) as network:
            network.enter()
            holds = asyncio.run(prove(network, folder))
    finally:
        if keep:
            print(f"logs are in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return 0 if holds else 1


if __name__ == "__main__":
    clean_up_on_sigterm()
    sys.exit(main())
