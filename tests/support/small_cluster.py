"""A cluster on this machine: nodes as `tether up` makes them, and a PostgreSQL of none of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx2

from tests.support.bills import Books
from tests.support.cluster_process import Member, certify
from tests.support.node_process import ECHO, tether
from tests.support.outside_stores import outside_postgres
from tests.support.ports import free_port
from tests.support.waiting import PATIENCE_S

ALL: Final = ("door", "control", "worker")
_CONFIG: Final = """
[node]
data_dir = "data/{{node}}"
identity_dir = "ca/nodes/{{node}}"
metrics = "127.0.0.1:0"
[http]
port = 0
max_deadline_s = 3600.0
{more}
[stores]
postgres = {dsn}
"""


@dataclass
class Cluster:
    """Its nodes by id, and its books."""

    folder: Path
    members: dict[str, Member]
    books: Books

    async def key_of(self, tenant: str) -> str:
        """A new one."""
        first = next(iter(self.members))
        made = await asyncio.to_thread(
            tether, "keys", "create", tenant, "--node", first, cwd=self.folder
        )
        assert made.returncode == 0, made.stderr
        return made.stdout.strip()

    def client(self, node: str, key: str, timeout_s: float = 120.0) -> httpx2.AsyncClient:
        """Of that node's door."""
        return httpx2.AsyncClient(
            base_url=self.members[node].state["url"],
            headers={"authorization": f"Bearer {key}"},
            timeout=timeout_s,
            limits=httpx2.Limits(max_connections=512, max_keepalive_connections=128),
        )


@asynccontextmanager
async def cluster(
    folder: Path, roles: Mapping[str, Sequence[str]], *, more: str = ""
) -> AsyncIterator[Cluster]:
    """Nodes with these roles, all ready, the first their leader; `more` is of the configuration."""
    async with outside_postgres(folder) as postgres:
        nodes = "".join(
            f'[[nodes]]\nid = "{node}"\nhost = "127.0.0.1"\nadmin_port = {free_port()}\n'
            f"roles = {json.dumps(list(of))}\nleader = true\n"
            for node, of in roles.items()
        )
        text = _CONFIG.format(more=more, dsn=json.dumps(postgres.url))
        (folder / "cluster.toml").write_text(text + nodes + ECHO)
        members = {node: Member(folder, node) for node in roles}
        try:
            await asyncio.to_thread(certify, folder, list(roles))
            for member in members.values():
                member.start()
            for member in members.values():
                await asyncio.to_thread(member.wait_ready)
            yield Cluster(folder, members, Books(postgres.url))
        finally:
            await asyncio.to_thread(_end, list(members.values()))


def _end(members: Sequence[Member]) -> None:
    for member in members:
        if member.process is not None and member.process.poll() is None:
            member.process.terminate()
    for member in members:
        if member.process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                member.process.wait(PATIENCE_S)
            member.kill()
