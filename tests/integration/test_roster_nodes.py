"""Rosters that announce to one another over mutual TLS, and what they don't believe."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client import REGISTRY

from actors.contracts import (
    Announce,
    Announced,
    Command,
    Commanded,
    ControlPlane,
    HealthReport,
    ModelsChanged,
    Presence,
    WatchControlPlane,
)
from actors.core.node_roles import ROLES
from actors.roster.announcement import Refusal, announce, presence_topic
from actors.roster.membership import MembershipOptions
from actors.roster.probe import refuses
from actors.roster.publisher import LOAD_S
from supervision.security.authority import Authority
from supervision.security.identity import Identity
from supervision.security.signature import Seal
from tests.support.roster_nodes import Fake, HubRoster, Rosters, StillTree, rosters
from tests.support.tls_hubs import HOST
from tests.support.waiting import PATIENCE_S, until

QUICK = {
    "announce_s": 0.3,
    "membership": MembershipOptions(suspect_s=2.0, expiry_s=4.0, guard_s=6.0),
}


async def test_all_nodes_know_all_workers_and_lose_the_dead_at_once(tmp_path: Path):
    async with rosters(tmp_path) as made:
        one, two, three = [await made.roster(node) for node in made.nodes]
        worker = await made.worker(two)
        await made.worker(three)
        everybody = ["w.n2", "w.n3"]
        await until(lambda: one.ids == two.ids == three.ids == everybody)
        assert {one.health(n) for n in ("n2", "n3")} == {"alive"}
        worker.say(running=3)
        await until(lambda: any(w.running == 3 for w in one._view.fleet.workers))
        worker.hub.close()
        await until(lambda: one.ids == three.ids == ["w.n3"])
        shown = await made.shown(one)
        assert [(n.node, n.state) for n in shown.nodes] == [
            ("n1", "here"),
            ("n2", "alive"),
            ("n3", "alive"),
        ]
        assert shown.nodes[2].models == ("echo@1",)
        assert shown.nodes[2].roles == ("door", "control", "worker")
        presence = one.others.heard["n3"].presence
        assert presence.hardware.cores >= 1
        assert presence.capabilities == {"gpu_class": "none", "vram_gb": 0}
        assert presence.addresses["control/roster"] == str(three.address)
        assert [o.topic for o in one.others.heard["n3"].offers] == ["tether/models/echo/1/eu"]


async def test_control_nodes_are_those_of_the_configuration(tmp_path: Path):
    """A worker's node that says it has a reservation is believed as little as one that says it has
    the role; one that is gone, or has another reservation now, is heard of."""
    async with rosters(tmp_path) as made:
        made.roles = {"n2": ("worker",)}
        one = await made.roster("n1", roles=("worker",))
        tree = StillTree()
        tree.put("control/reservation", "n2/9/1")
        two = await made.roster("n2", tree=tree, roles=("door", "control", "worker"))
        three = await made.roster("n3")
        seen: list[ControlPlane] = []

        async def follow() -> None:
            async for plane in one.control(WatchControlPlane(), one.address):
                seen.append(plane)  # noqa: PERF401 it never ends, and is looked at meanwhile

        following = asyncio.create_task(follow())
        await until(lambda: one.health("n2") == one.health("n3") == "alive")
        await until(lambda: [n.node for n in seen[-1].nodes] == ["n3"])
        assert seen[-1].nodes[0].addresses["control/roster"] == str(three.address)
        three.still_tree.put("control/reservation", "n3/7/2")
        three.still_tree.changed()
        await until(lambda: "control/reservation" in seen[-1].nodes[0].addresses)
        assert one.others.heard["n2"].presence.addresses["control/reservation"] == "n2/9/1"
        assert two.others.heard["n3"].presence.addresses["control/reservation"] == "n3/7/2"
        three.others._leaving = True
        await three.others.publisher.farewell()
        await until(lambda: not seen[-1].nodes)
        following.cancel()


async def test_load_alone_is_announced_once_a_second_and_all_else_at_once(tmp_path: Path):
    async with rosters(tmp_path, ("n1", "n2")) as made:
        one, two = [await made.roster(node) for node in made.nodes]
        worker = await made.worker(two)
        await until(lambda: one.ids == ["w.n2"])
        publisher = two.others.publisher
        first, began = publisher._numbers, one.loop.time()
        for running in range(1, 200):
            worker.say(running=running)
            await asyncio.sleep(0.01)
        await until(lambda: one._view.fleet.workers[0].running == 199)
        took_s = one.loop.time() - began
        assert publisher._numbers - first <= 3 + took_s / LOAD_S + took_s / 5
        worker.say(draining=True)
        await until(lambda: one._view.fleet.workers[0].draining)


async def test_a_roster_that_starts_anew_is_told_at_once(tmp_path: Path):
    async with rosters(tmp_path, ("n1", "n2")) as made:
        one, two = [await made.roster(node) for node in made.nodes]
        await made.worker(two)
        await until(lambda: one.ids == ["w.n2"])
        before = two.others.heard["n1"].epoch
        one.quit()
        anew = await made.roster("n1")
        await until(lambda: anew.ids == ["w.n2"])  # much sooner than the next regular one
        await until(lambda: two.others.heard["n1"].epoch == anew.others.epoch)
        assert anew.others.epoch > before
        assert two.health("n1") == "alive"


async def test_a_new_roster_says_nothing_before_its_workers_have_found_it(tmp_path: Path):
    """Else the others would take them for gone, and move what runs there."""
    async with rosters(tmp_path, ("n1", "n2")) as made:
        one, two = [await made.roster(node) for node in made.nodes]
        worker = await made.worker(two)
        await until(lambda: one.ids == ["w.n2"])
        fleets: list[list[str]] = []
        settled = one._changed

        def changed() -> None:
            fleets.append(one.ids)
            settled()

        one.others._changed = changed
        first = one.others.heard["n2"].epoch
        two.quit()
        tree = StillTree()
        tree.put("workers/w.n2", worker.report.address)
        worker.roster = await made.roster("n2", tree=tree)
        await until(lambda: any("begin" in t.get_name() for t in worker.roster._background))
        worker.say()
        await until(lambda: one.others.heard["n2"].epoch > first)
        await until(lambda: one.health("n2") == "alive")
        assert fleets
        assert all(fleet == ["w.n2"] for fleet in fleets)


def presence(node: str, **fields: Any) -> Presence:
    return Presence(
        **({"topic": presence_topic("eu"), "region": "eu"} | fields)  # type: ignore[arg-type]
    )


def refused_total(why: Refusal) -> float:
    """As `/metrics` has it."""
    name = "tether_announcements_refused_total"
    return REGISTRY.get_sample_value(name, {"reason": str(why)}) or 0.0


class Forger:
    """Makes announcements of whatever kind, with the key of a node or of nobody."""

    def __init__(self, made: Rosters) -> None:
        self.made = made

    def identity(self, node: str, authority: Authority | None = None) -> Identity:
        authority = authority or self.made.cluster.authority
        found = Identity(authority.folder_of(node), node)
        found.load()
        return found

    def sealed(
        self,
        key_of: str | Identity,
        payload: bytes,
        purpose: str = "announcement",
    ) -> Announce:
        identity = self.identity(key_of) if isinstance(key_of, str) else key_of
        signed = Seal(identity, purpose).sign(payload)
        return Announce(payload=payload, certificate=signed.certificate, signature=signed.signature)


async def test_what_is_not_believed_changes_nothing_and_is_counted(tmp_path: Path):
    """By a connection with n3's certificate or n2's: forged, stale, replayed, in another's name."""
    async with rosters(tmp_path) as made:
        one, two, three = [await made.roster(node) for node in made.nodes]
        worker = await made.worker(two)
        await until(lambda: one.ids == ["w.n2"])
        await until(lambda: one.health("n3") == "alive")
        two.mute()
        three.mute()
        forger = Forger(made)
        rogue = await made.cluster.hub("n3")  # another process of node n3, in bad hands
        thief = await made.cluster.hub("n2")
        known = one.others.heard["n2"]
        old = two.others.publisher._sealed.announce
        theirs = known.presence
        bad = msgspec.structs.replace(theirs, workers=())
        nobody = Authority.init(tmp_path / "nobody", "blue")
        nobody.issue("n2", roles=ROLES)
        stranger = forger.identity("n2", nobody)

        def says(node: str, epoch: int, sequence: int, *entries: Any) -> bytes:
            return announce(node, epoch, sequence, entries or [bad])

        newer = (known.epoch, known.sequence + 1000)
        in_anothers_name = HealthReport(
            **{name: getattr(worker.report, name) for name in HealthReport.__struct_fields__}
        )
        cut = forger.sealed("n2", says("n2", *newer))
        cut = msgspec.structs.replace(cut, signature=bytes(64))
        attempts: list[tuple[Any, Announce, Refusal]] = [
            # n3 speaks in n2's name, with its own key, with n2's words, with a foreign key
            (rogue, forger.sealed("n3", says("n2", *newer)), Refusal.IMPOSTOR),
            (rogue, old, Refusal.IMPOSTOR),
            (rogue, forger.sealed(stranger, says("n2", *newer)), Refusal.UNTRUSTED),
            # somebody who can speak from n2, but has not its key
            (thief, forger.sealed("n3", says("n2", *newer)), Refusal.IMPOSTOR),
            (thief, cut, Refusal.FORGED),
            (thief, forger.sealed("n2", says("n2", *newer), "other"), Refusal.FORGED),
            (thief, Announce(payload=b"", certificate=b"", signature=b""), Refusal.FORGED),
            # n2 itself, late or twice
            (thief, old, Refusal.REPLAYED),
            (thief, forger.sealed("n2", says("n2", known.epoch - 1, 10**6)), Refusal.STALE),
            # n3 in its own name, of what isn't its own
            (
                rogue,
                forger.sealed(
                    "n3", says("n3", 2**60, 1, presence("n3", workers=(in_anothers_name,)))
                ),
                Refusal.IMPOSTOR,
            ),
            (rogue, forger.sealed("n3", b"\xc1"), Refusal.MALFORMED),
            (rogue, forger.sealed("n3", bytes(600_000)), Refusal.CROWDED),
        ]
        fleet = one._view.fleet
        heard = dict(one.others.heard)
        before = dict(one.others.refusals.counts)
        shown = {why: refused_total(why) for why in Refusal}
        for hub, message, why in attempts:
            answer = await hub.ask(one.address, message, PATIENCE_S)
            assert isinstance(answer, Announced)
            assert answer.refused == why, (answer, why)
        assert one._view.fleet is fleet
        assert one.others.heard == heard
        counts = one.others.refusals.counts
        for why in Refusal:
            more = sum(expected is why for _, _, expected in attempts)
            assert counts[why] - before[why] == more, why
            assert refused_total(why) - shown[why] == more, why
        # and it is well: what n2 says next is taken
        answer = await thief.ask(one.address, forger.sealed("n2", says("n2", *newer)), PATIENCE_S)
        assert answer == Announced(epoch=known.epoch)
        assert one.ids == []


async def test_who_is_not_supervised_here_is_no_worker_of_ours(tmp_path: Path):
    """A process of another node reports in the name of a worker of this one."""
    async with rosters(tmp_path, ("n1", "n2")) as made:
        one, two = [await made.roster(node) for node in made.nodes]
        await made.worker(one)
        thief = Fake(await made.cluster.hub("n2"), one, worker_id="w.n1", epoch=99)
        thief.say()
        placed = Fake(await made.cluster.hub("n2"), one, worker_id="placed")
        placed.say()
        await until(lambda: len(one._unknown) == 2)
        assert one.ids == ["w.n1"]
        one.still_tree.put("workers/placed", placed.report.address)
        one.still_tree.changed()
        await until(lambda: two.ids == ["placed", "w.n1"])
        seen = {w.worker_id: (w.node_id, w.address) for w in two._view.fleet.workers}
        assert seen["placed"] == ("n1", placed.report.address)
        assert seen["w.n1"][1].startswith("n1/")


async def test_a_node_that_is_not_listed_is_a_stranger(tmp_path: Path):
    async with rosters(tmp_path, ("n1", "n2")) as made:
        one, two = [await made.roster(node) for node in made.nodes]
        stranger = await made.cluster.hub("n4")
        payload = announce("n4", 1, 1, [presence("n4")])
        message = Forger(made).sealed("n4", payload)
        answer = await stranger.ask(one.address, message, PATIENCE_S)
        assert answer == Announced(refused="stranger", epoch=-1)
        for n in range(50):
            await stranger.ask(
                one.address, msgspec.structs.replace(message, signature=b"%d" % n), PATIENCE_S
            )
        assert one.others.refusals.counts[Refusal.STRANGER] == 51
        assert len(one.others.refusals._said) == 1
        await until(lambda: one.health("n2") == two.health("n1") == "alive")


async def test_a_silent_node_is_suspect_then_gone_and_comes_back(tmp_path: Path):
    async with rosters(tmp_path, ("n1", "n2"), **QUICK) as made:
        one, two = [await made.roster(node) for node in made.nodes]
        await made.worker(two)
        await until(lambda: one.ids == ["w.n2"])

        async def suspect() -> bool:
            """Falls silent and comes back; was it second choice in between? Where this process
            stood still for as long as that takes, nobody has seen it."""
            two.mute()
            await until(lambda: one._view.fleet.suspects or one.health("n2") == "gone")
            seen = (one._view.fleet.suspects, one.ids) == (("w.n2",), ["w.n2"])
            await until(lambda: one.health("n2") == "gone")
            await until(lambda: one.ids == [])
            two.others.publisher.start()
            await until(lambda: one.ids == ["w.n2"])
            await until(lambda: one.health("n2") == "alive")
            return seen

        for _ in range(5):
            if await suspect():
                return
        pytest.fail("it went from alive to gone")


async def test_a_clock_that_went_back_is_found_out_and_made_up_for(tmp_path: Path):
    async with rosters(tmp_path, ("n1", "n2")) as made:
        one, two = [await made.roster(node) for node in made.nodes]
        await until(lambda: one.health("n2") == "alive")
        two.others.epoch -= 3_600_000
        two.others.say_soon()
        await until(lambda: one.others.refusals.counts[Refusal.STALE] >= 1)
        last = one.others.heard["n2"].epoch
        await until(lambda: one.others.heard["n2"].epoch > last)
        kept = (tmp_path / "state-n2" / "roster.epoch").read_text()
        assert int(kept) == two.others.epoch


async def test_orders_reach_all_and_say_who_was_missed(tmp_path: Path):
    async with rosters(tmp_path) as made:
        one, two = [await made.roster(node) for node in ("n1", "n2")]
        worker, other = await made.worker(two), await made.worker(two, worker_id="v")
        registry = await made.worker(one, worker_id="registry")
        one.still_tree.put("control/registry", str(registry.hub.address))
        await until(lambda: one.ids == ["registry", "v", "w.n2"])

        async def command(verb: str, target: str = "", **fields: Any) -> Commanded:
            message = Command(verb=verb, target=target, within_s=2.0, **fields)
            answer = await registry.hub.ask(one.address, message, PATIENCE_S)
            assert isinstance(answer, Commanded)
            return answer

        assert await command("drain", "n2") == Commanded(reached=("n1", "n2"), missing=("n3",))
        await until(lambda: worker.drained == other.drained == [True])
        await until(lambda: one.others.heard["n2"].presence.draining)
        anew = await made.worker(two, worker_id="x")
        await until(lambda: anew.drained == [True])
        await command("undrain", "n2")
        await command("drain", "n2/v")
        await until(lambda: other.drained == [True, False, True])
        assert worker.drained == [True, False]
        await command("models_changed")
        assert any(isinstance(m, ModelsChanged) for m in registry.told)
        assert await command("models_changed", region="us") == Commanded(reached=())
        three: HubRoster = await made.roster("n3")
        await until(lambda: three.others.heard.keys() == {"n1", "n2"})
        assert three.others.orders.draining is False
        answer = await _refused(worker, one, Command(verb="drain", target="n1"))
        assert answer == "forbidden"
        assert await _refused(registry, one, Command(verb="explode")) == "invalid_request"


async def _refused(by: Any, roster: HubRoster, command: Command) -> str:
    from supervision.errors import TetherError

    try:
        await by.hub.ask(roster.address, command, PATIENCE_S)
    except TetherError as error:
        return error.code
    return ""


async def test_a_revocation_list_is_carried_to_all(tmp_path: Path):
    """Whoever revokes writes it where the authority's folders are; n2's are elsewhere."""
    async with rosters(tmp_path, announce_s=0.3) as made:
        elsewhere = tmp_path / "n2-identity"
        one = await made.roster("n1")
        two = await made.roster("n2", identity=elsewhere)
        await until(lambda: one.health("n2") == two.health("n1") == "alive")
        authority = made.cluster.authority
        authority.issue("n3", roles=ROLES)
        authority.revoke("n3")
        new = (authority.folder / "crl.pem").read_bytes()
        kept = made.kept("n2") / "crl.pem"
        await until(lambda: kept.exists() and kept.read_bytes() == new)
        assert two.others.revocations.number == one.others.revocations.number


async def test_a_host_that_refuses_is_told_from_one_that_is_silent():
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]
        assert await refuses(HOST, port), "bound, and nobody listens"
        free.listen()
        assert not await refuses(HOST, port)
    assert not await refuses("no such host.invalid", port)
