"""Three nodes in network namespaces, of which one is to be taken over, and how they stand."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final
from urllib.request import urlopen

import asyncpg
import msgspec

from actors.contracts import BreakerStates, ClusterShown, ShowBreakers, ShowCluster, ShowModels
from actors.contracts.operating import BreakerState
from supervision.contracts import ShowTree, Tree
from supervision.contracts.operating import Inspect, Inspected
from supervision.runtime import Endpoint
from tests.support.cluster_folders import Listed, furnished
from tests.support.netns import Network

ROLES: Final = {
    "n1": ("door", "control", "worker"),
    "n2": ("door", "control", "worker"),
    "n3": ("worker",),
}
SOUND: Final = ("n1", "n2")
TURNED: Final = "n3"
KEPT: Final = ("tenants", "api_keys", "models", "model_changes", "breakers")
METRIC: Final = re.compile(r"^(\w+)(?:\{(.*)\})? ([0-9.e+]+)$", re.MULTILINE)


class Standing(msgspec.Struct):
    """A node, as its own processes and the system see it."""

    tree: dict[str, tuple[int, str, int, int]]  # pid, address, generation, restarts
    actors: dict[str, tuple[str, str]]  # state, log level
    breakers: BreakerStates
    models: Any
    fleet: dict[str, tuple[str, bool]]  # of all nodes: address, whether it drains
    pids: dict[int, str]  # all of its processes; with the paths of those in the tree


class ThreeNodes:
    """On `network`, whose namespaces are there; their folders are in `folder`."""

    def __init__(self, folder: Path, network: Network, dsn: str) -> None:
        self.folder, self.network, self.dsn = folder, network, dsn
        listed = [
            Listed(
                node, roles, host=network.hosts[node], region="near", leader=node in SOUND,
                inside=network.inside(node),
            )
            for node, roles in ROLES.items()
        ]  # fmt: skip
        self.members = furnished(
            folder, listed, http=8080, metrics="{host}:9464", door="{host}",
            stores=f'[stores]\npostgres = "{dsn}"',
            more=lambda _: "[limits]\nrequests_per_minute = 1000000",
        )  # fmt: skip

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


def _settings(shown: BreakerStates) -> BreakerStates:
    """What was set, and which are open, of the workers of others; without counts of calls."""

    def still(of: tuple[BreakerState, ...]) -> tuple[BreakerState, ...]:
        return tuple(
            msgspec.structs.replace(one, calls=0, failed=0, until_s=0.0)
            for one in of
            if one.worker_id in {f"echo.{node}" for node in SOUND}
        )

    return BreakerStates(breakers=still(shown.breakers), workers=still(shown.workers))
