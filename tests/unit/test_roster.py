"""Rosters of four nodes on a clock that jumps and a network that drops, doubles, reorders, delays
and partitions, with somebody who repeats whatever was said: the pure cores, seed by seed."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from random import Random

import pytest

from actors.contracts import Fleet, HealthReport, Presence
from actors.core.node_roles import ROLES
from actors.roster.announcement import Acceptance, AnnouncementRefused, announce, presence_topic
from actors.roster.membership import Health, Membership, MembershipOptions
from actors.roster.roster_view import RosterView

NODES = ("n1", "n2", "n3", "n4")
OPTIONS = MembershipOptions()
CHAOS_S, PEACE_S = 150.0, 90.0
SEEDS = 50


class Node:
    """One life of a roster."""

    def __init__(self, name: str, epoch: int, now: float, acceptance: type[Acceptance]) -> None:
        self.name, self.epoch, self.sequence = name, epoch, 0
        others = [node for node in NODES if node != name]
        self.acceptance = acceptance(name, others)
        self.members = Membership(others, now, OPTIONS)
        self.view = RosterView(name, others)
        self.last: dict[str, tuple[int, int]] = {}
        self.heard_at: dict[str, float] = {}
        self.slots = 1

    def presence(self) -> Presence:
        worker = HealthReport(
            worker_id=f"w.{self.name}",
            node_id=self.name,
            address=f"{self.name}/{self.epoch}-w/1",
            region="eu",
            slots=self.slots,
            running=0,
            queued=0,
            models=("echo@1",),
            epoch=self.epoch,
            sequence=self.sequence,
        )
        return Presence(topic=presence_topic("eu"), region="eu", workers=(worker,))


class World:
    def __init__(self, seed: int, acceptance: type[Acceptance] = Acceptance) -> None:
        self.dice = Random(seed)
        self.acceptance = acceptance
        self.now = 0.0
        self.epochs = dict.fromkeys(NODES, 0)
        self.alive: dict[str, Node] = {}
        self.cut: set[frozenset[str]] = set()
        self.said: list[tuple[str, bytes]] = []
        self.truth: dict[tuple[str, int, int], Presence] = {}
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.order = itertools.count()
        self.chaos = True
        for node in NODES:
            self.start(node)
        self.at(0.5, self.look)
        self.at(self.dice.uniform(0, 5), self.mischief)

    def at(self, delay_s: float, what: Callable[[], None]) -> None:
        heapq.heappush(self.events, (self.now + delay_s, next(self.order), what))

    def run(self, until: float) -> None:
        while self.events and self.events[0][0] <= until:
            self.now, _, what = heapq.heappop(self.events)
            what()
            self.laws()
        self.now = until

    # ---- what nodes do

    def start(self, name: str) -> None:
        self.epochs[name] += self.dice.randint(1, 3)
        node = self.alive[name] = Node(name, self.epochs[name], self.now, self.acceptance)
        self.at(self.dice.uniform(0, 1), lambda: self.speak(node))

    def speak(self, node: Node) -> None:
        if self.alive.get(node.name) is not node:
            return
        node.sequence += 1
        node.slots = self.dice.randint(1, 9)
        presence = node.presence()
        payload = announce(node.name, node.epoch, node.sequence, [presence])
        self.truth[node.name, node.epoch, node.sequence] = presence
        self.said.append((node.name, payload))
        for other in NODES:
            if other != node.name:
                self.send(node.name, node.name, other, payload)
        self.at(
            5.0 if self.dice.random() < 0.7 else self.dice.uniform(0.1, 5), lambda: self.speak(node)
        )

    def send(self, sender: str, signer: str, to: str, payload: bytes) -> None:
        copies = 1
        if self.chaos:
            copies = self.dice.choice((0, 1, 1, 1, 2))
        for _ in range(copies):
            delay_s = self.dice.uniform(0, 3.0 if self.chaos else 0.1)
            self.at(delay_s, lambda: self.arrive(sender, signer, to, payload))

    def arrive(self, sender: str, signer: str, to: str, payload: bytes) -> None:
        node = self.alive.get(to)
        if node is None or frozenset((sender, to)) in self.cut:
            return
        before = (node.view.fleet, dict(node.last))
        try:
            heard = node.acceptance.take(payload, signer=signer, sender=sender, roles=ROLES)
        except AnnouncementRefused:
            assert (node.view.fleet, node.last) == before
            return
        assert sender == signer == heard.node_id
        stamp = (heard.epoch, heard.sequence)
        assert stamp > node.last.get(sender, (-1, -1)), "time went back"
        node.last[sender] = stamp
        node.heard_at[sender] = self.now
        node.members.heard(sender, self.now)
        node.view.put(sender, heard.presence.workers)

    def look(self) -> None:
        for node in self.alive.values():
            node.view.own(Fleet(version=0, workers=()))
            for changed in node.members.look(self.now):
                if node.members.health(changed) is Health.GONE:
                    node.view.drop(changed)
            suspects = [n for n in node.members if node.members.health(n) is Health.SUSPECT]
            node.view.doubt(frozenset(suspects))
        self.at(0.5, self.look)

    # ---- what goes wrong

    def mischief(self) -> None:
        if not self.chaos:
            return
        what = self.dice.choice(("cut", "heal", "kill", "start", "replay", "replay", "replay"))
        pair = frozenset(self.dice.sample(NODES, 2))
        if what == "cut":
            self.cut.add(pair)
        elif what == "heal":
            self.cut.discard(pair)
        elif what == "kill" and len(self.alive) > 1:
            del self.alive[self.dice.choice(sorted(self.alive))]
        elif what == "start":
            for name in sorted(set(NODES) - set(self.alive)):
                self.start(name)
        elif self.said:
            signer, payload = self.dice.choice(self.said[-60:])
            sender = self.dice.choice((signer, *NODES))
            self.arrive(sender, signer, self.dice.choice(NODES), payload)
        self.at(self.dice.expovariate(0.5), self.mischief)

    def peace(self) -> None:
        self.chaos = False
        self.cut.clear()

    # ---- what always holds

    def laws(self) -> None:
        for node in self.alive.values():
            fleet = {worker.node_id: worker for worker in node.view.fleet.workers}
            for other in node.members:
                health = node.members.health(other)
                silent_s = self.now - node.heard_at.get(other, self.now)
                if health in (Health.ALIVE, Health.SUSPECT):
                    said = self.truth[other, *node.last[other]].workers[0]
                    seen = fleet[other]  # whose number may be older, if nothing else has changed
                    assert (seen.address, seen.slots) == (said.address, said.slots)
                    assert silent_s < OPTIONS.guard_s + 1
                else:
                    assert other not in fleet
                if health is Health.ALIVE:
                    assert silent_s < OPTIONS.suspect_s + 1


def lived(seed: int, acceptance: type[Acceptance] = Acceptance) -> World:
    world = World(seed, acceptance)
    world.run(CHAOS_S)
    world.peace()
    world.run(CHAOS_S + PEACE_S)
    return world


def live_all(acceptance: type[Acceptance]) -> None:
    for seed in range(SEEDS):
        lived(seed, acceptance)


def test_what_holds_in_every_world_and_that_all_agree_in_the_end():
    gone = 0
    for seed in range(SEEDS):
        world = lived(seed)
        for node in world.alive.values():
            for other in node.members:
                there = world.alive.get(other)
                health = node.members.health(other)
                if there is None:
                    assert health in (Health.GONE, Health.UNKNOWN), (seed, node.name, other)
                    gone += 1
                else:
                    assert health is Health.ALIVE, (seed, node.name, other)
                    assert node.view.of(other)[0].address == there.presence().workers[0].address
    assert gone, "these worlds are too kind"


class Forgetful(Acceptance):
    """A planted bug: it takes what it has heard before."""

    def take(self, payload: bytes, *, signer: str, sender: str, roles=ROLES):  # type: ignore[no-untyped-def]
        if sender in self._known:
            self._known[sender].sequence = -1
        return super().take(payload, signer=signer, sender=sender, roles=roles)


class Gullible(Acceptance):
    """A planted bug: it believes whoever brings something."""

    def take(self, payload: bytes, *, signer: str, sender: str, roles=ROLES):  # type: ignore[no-untyped-def]
        return super().take(payload, signer=signer, sender=signer, roles=roles)


@pytest.mark.parametrize("bug", [Forgetful, Gullible])
def test_a_planted_bug_is_found(bug: type[Acceptance]):
    with pytest.raises(AssertionError):
        live_all(bug)
