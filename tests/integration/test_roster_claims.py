"""What a worker's node that was taken over announces, to rosters over mutual TLS: it counts for
itself, and takes neither the name nor the models of another node's workers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from actors.contracts import Catalog, HealthReport, ModelCard, WatchCatalog
from actors.core.model_digest import digest_of
from actors.core.node_roles import WORKER
from supervision.runtime import Address, on
from supervision.runtime.dispatch import Dispatch
from supervision.runtime.handlers import handlers_of
from supervision.security.audience import OWN
from supervision.telemetry import audit
from tests.support.roster_nodes import Fake, HubRoster, StillTree, rosters
from tests.support.waiting import until

CARD = ModelCard(name="echo", version="1", engine="echo")


def claims(what: str) -> float:
    """That were refused, as `/metrics` has it."""
    found = REGISTRY.get_sample_value("tether_fleet_claims_refused_total", {"what": what})
    return found or 0.0


def fleet(roster: HubRoster) -> dict[str, HealthReport]:
    return {worker.worker_id: worker for worker in roster._view.fleet.workers}


class StillRegistry:
    """The registry of a node, whose catalog is what it is."""

    @on(WatchCatalog, of=OWN)
    async def catalog(self, msg: WatchCatalog, sender: Address) -> AsyncIterator[Catalog]:
        yield Catalog(version=1, models=(CARD,))
        await asyncio.Event().wait()


async def test_nobody_takes_a_workers_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """n2 calls its worker as n3 does one of its own; at n1, which hears of n2 first."""
    monkeypatch.setenv(audit.HOME, str(tmp_path))
    async with rosters(tmp_path) as made:
        one = await made.roster("n1")
        two = await made.roster("n2", certified=(WORKER,), roles=(WORKER,))
        before = claims("name")
        thief = await made.worker(two, worker_id="w.n3", slots=999)
        await until(lambda: bool(one.ids))
        assert one.ids == ["n2/w.n3"]
        worker = await made.worker(await made.roster("n3"))
        await until(lambda: one.ids == ["n2/w.n3", "w.n3"])
        assert fleet(one)["w.n3"].address == worker.report.address
        assert fleet(one)["n2/w.n3"].address == thief.report.address
        assert claims("name") > before  # of all rosters in this process
        said: list[dict[str, object]] = []

        def written() -> bool:
            path = tmp_path / audit.NAME
            lines = path.read_text().splitlines() if path.exists() else []
            said[:] = [line for line in map(json.loads, lines) if line["command"] == "claim"]
            return bool(said)

        await until(written)
        assert said[0]["who"]["certificate"] == "n2"  # type: ignore[index]
        assert said[0]["arguments"] == ["w.n3"]


async def test_the_catalog_says_what_a_model_is(tmp_path: Path) -> None:
    """Not who has spoken of it first: n2 has another digest, n3 the right one, n1 no workers."""
    async with rosters(tmp_path) as made:
        hub = await made.cluster.hub("n1")
        Dispatch(hub, handlers_of(StillRegistry()), 16, "the registry").begin()
        tree = StillTree()
        tree.put("control/registry", str(hub.address))
        one = await made.roster("n1", tree=tree)
        two = await made.roster("n2", certified=(WORKER,), roles=(WORKER,))
        three = await made.roster("n3")
        before = claims("digest")
        abilities = ("vision", "tools")
        liar = await made.worker(
            two, models=("echo@1", "other@1"), digests=("another", ""), abilities=abilities
        )
        await until(lambda: "w.n2" in one.ids)
        await made.worker(three, digests=(digest_of(CARD),))
        await until(lambda: "w.n3" in one.ids)
        await until(lambda: fleet(one)["w.n2"].models == ("other@1",))
        assert fleet(one)["w.n2"].abilities == ("tools",), "each is of its own model"
        assert fleet(one)["w.n3"].models == ("echo@1",)
        await until(lambda: claims("digest") > before)
        liar.say(digests=(digest_of(CARD), ""))
        await until(lambda: fleet(one)["w.n2"].models == ("echo@1", "other@1"))


async def test_what_is_in_use_is_not_replaced(tmp_path: Path) -> None:
    """Where no catalog says it, as at a node that can't reach its database."""
    async with rosters(tmp_path) as made:
        one = await made.roster("n1")
        two = await made.roster("n2", certified=(WORKER,), roles=(WORKER,))
        three = await made.roster("n3")
        await made.worker(three, digests=("in use",))
        await until(lambda: one.ids == ["w.n3"])
        await made.worker(two, digests=("another",))
        await until(lambda: one.ids == ["w.n2", "w.n3"])
        assert fleet(one)["w.n3"].models == ("echo@1",)
        assert fleet(one)["w.n2"].models == ()


async def test_a_placed_worker_speaks_for_itself_alone(tmp_path: Path) -> None:
    """n1 has placed a worker at n2, which says that it is another one of n1, with another model."""
    async with rosters(tmp_path, ("n1", "n2")) as made:
        one, two = [await made.roster(node) for node in made.nodes]
        own = await made.worker(one, digests=("ours",))
        placed = Fake(await made.cluster.hub("n2", roles=(WORKER,)), one, worker_id="x.eu")
        one.still_tree.put("workers/x.eu", placed.report.address)
        one.still_tree.changed()
        placed.say(worker_id="w.n1", epoch=2**60, digests=("another",))
        placed.say(worker_id="x.eu", epoch=2**60, digests=("another",))
        await until(lambda: "x.eu" in one.ids)
        assert fleet(one)["w.n1"].address == own.report.address
        assert fleet(one)["w.n1"].models == ("echo@1",)
        assert fleet(one)["x.eu"].models == ()
        await until(lambda: two.ids == ["w.n1", "x.eu"])
