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
import secrets
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from actors.contracts import (
    WatchCatalog,
)
from supervision.contracts import WatchTree
from supervision.security.authority import Authority
from tests.acceptance.cluster_prove import database
from tests.support.cluster_load import Load
from tests.support.netns import Network
from tests.support.node_process import environment
from tests.support.node_process import tether as command
from tests.support.proof_table import Proof
from tests.support.termination import clean_up_on_sigterm
from tests.support.three_nodes import KEPT, ROLES, SOUND, TURNED, ThreeNodes
from tests.support.turned_evidence import TurnedEvidence, fresh_peak_mib

PATIENCE_S: Final = 60.0


class Story:
    """The three nodes on `network`, whose namespaces are there."""

    def __init__(self, folder: Path, network: Network, dsn: str, proof: Proof) -> None:
        self.folder, self.network, self.proof = folder, network, proof
        self.nodes = ThreeNodes(folder, network, dsn)
        self.members = self.nodes.members
        self.evidence = TurnedEvidence(self.nodes, proof)
        self.key = ""
        self.word = f"canary{secrets.token_hex(12)}"
        self.turned: asyncio.subprocess.Process | None = None

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
            before = {node: await self.nodes.stands(node) for node in SOUND}
            resident = {pid: fresh_peak_mib(pid) for one in before.values() for pid in one.pids}
            tables = await self.nodes.tables()
            revoked = {node: self.nodes.revocations(node) for node in SOUND}
            self.proof.row("stop n3's own processes", f"{load.whole()} answers so far")
            began = time.monotonic()
            summary = await self.turn(seconds, seed)
            self.evidence.said(summary)
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
            self.evidence.unchanged(node, before[node], await self.nodes.stands(node), resident)
        now = await self.nodes.tables()
        self.proof.row(
            "  keys, models, breakers in PostgreSQL", "as before" if now == tables else
            f"changed: {[t for t in KEPT if now[t] != tables[t]]}", good=now == tables,
        )  # fmt: skip
        same = {node: self.nodes.revocations(node) for node in SOUND} == revoked
        self.proof.row("  revocation lists", "as before" if same else "changed", good=same)
        await self.evidence.billed(load)
        self.evidence.received(self.key, self.word)
        for node in SOUND:
            self.evidence.told(node)
        await self.shut_out()

    async def joined(self) -> None:
        ran, count = "SELECT count(*) FROM jobs WHERE worker_id = 'echo.n3'", 0
        async with asyncio.timeout(PATIENCE_S):
            while count < 3:
                await asyncio.sleep(0.2)
                count = await self.nodes.one(ran)
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
        first = asyncio.Event()
        leak = asyncio.create_task(self._leak(lists, first))
        async with asyncio.timeout(PATIENCE_S):
            await first.wait()
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

    async def _leak(self, lists: list[str], written: asyncio.Event) -> None:
        """What runs, as if somebody had told n3: it knows the ids and tokens of all jobs."""
        path = self.folder / "world.json"
        while True:
            leases = await self.nodes.rows(
                "SELECT job_id::text, retry_token, l.fence, l.worker_id, l.worker_address "
                "FROM leases l JOIN jobs j ON j.id = l.job_id"
            )
            fresh = path.with_suffix(".new")
            fresh.write_text(json.dumps({"leases": [dict(row) for row in leases], "lists": lists}))
            fresh.replace(path)
            written.set()
            await asyncio.sleep(0.3)

    async def hoarded(self) -> None:
        """n3 holds as many streams as it gets; n1 and n2 still watch their own trees."""
        took = json.loads(await self._line())["hoarded"]
        seen = 0
        for node in SOUND:
            async with self.nodes.inside(node) as (endpoint, tree):
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
    clean_up_on_sigterm()
    sys.exit(main())
