"""The other nodes: who is there, what they say, and telling them what is here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

from actors.contracts import (
    Announce,
    Announced,
    Fleet,
    HealthReport,
    Offer,
    Order,
    Presence,
)
from actors.core.node_roles import CONTROL
from actors.roster import epoch, metrics
from actors.roster.announcement import (
    MAX_BYTES,
    MAX_WORKERS,
    Acceptance,
    AnnouncementRefused,
    Heard,
    Refusal,
    announce,
    offers_of,
    presence_topic,
)
from actors.roster.condition import Condition
from actors.roster.membership import Health, Membership
from actors.roster.options import OtherNode, RosterOptions
from actors.roster.probe import refuses
from actors.roster.publisher import Find, Publisher, Sealed
from actors.roster.refusals import Refusals
from actors.roster.remote_commands import RemoteCommands
from actors.roster.revocation_exchange import RevocationExchange
from actors.roster.roster_view import RosterView
from supervision.child import Supervised
from supervision.contracts import ChildStatus
from supervision.errors import Forbidden, TetherError, Unavailable
from supervision.release import VERSION
from supervision.runtime import Address
from supervision.security.identity import Identity, IdentityUnusable
from supervision.security.refusal import CertificateRefused
from supervision.security.signature import MAX_CERTIFICATE, Forged, Seal, Signed
from supervision.telemetry import bounds
from supervision.telemetry.bounded_log import BoundedLog

PURPOSE: Final = "announcement"
WORKERS: Final = "workers"
GATHER_S: Final = 5.0  # for the workers of this node to report to a roster that has just started
EPOCH_AHEAD_MS: Final = 86_400_000  # of our clock; more is no mistake that we repeat

lines = BoundedLog(__name__)


class ClusterMembers:
    """One roster's part of a cluster.

    Args:
        identity: of this node; it signs, and says whom to believe.
        own: the workers of this node.
        view: the fleet of all nodes, kept here.
        find: where another node's roster is.
        changed: called when the view may have changed.
    """

    def __init__(
        self,
        actor: Supervised,
        options: RosterOptions,
        identity: Identity,
        *,
        own: Callable[[], Fleet],
        view: RosterView,
        find: Find,
        changed: Callable[[], object],
    ) -> None:
        self._actor = actor
        self._options = options
        self._identity = identity
        self._own = own
        self._view = view
        self._changed = changed
        self._seal = Seal(identity, PURPOSE)
        others = tuple(other.id for other in options.others)
        self._acceptance = Acceptance(options.node_id, others)
        self.members = Membership(others, actor.loop.time(), options.membership)
        self.heard: dict[str, Heard] = {}
        """The last word of each node."""
        self.orders = RemoteCommands(
            actor, options.node_id, options.region, lambda: own().workers, self.say_soon
        )
        self.refusals = Refusals()
        self.publisher = Publisher(
            actor,
            options.others,
            options.announce_s,
            seal=self._sealed,
            find=find,
            answered=self._answered,
            lost=self._unreachable,
        )
        self.revocations = RevocationExchange(
            actor, identity, self.publisher.address, self.say_soon
        )
        self._folder = Path(options.state_dir) if options.state_dir else None
        self.epoch = epoch.begin(self._folder, _now_ms())
        self.condition = Condition(actor, options, self.say_soon)
        self._leaving = False
        self._own_news = asyncio.Event()
        self._lasting: tuple[object, ...] = ()
        self._reach: dict[str, Callable[[], object]] = {}
        self._taken = metrics.announcements_taken
        self._health = {h: metrics.cluster_nodes.labels(str(h)) for h in Health}
        self._count()

    def start(self) -> None:
        """Begin to speak, to listen is the actor's part."""
        self._actor.background(self.condition.run(), name="look around")
        self._actor.tree.on_change(self.say_soon)
        self._actor.background(self._begin(), name="begin to announce")

    async def _begin(self) -> None:
        """Not before the workers of this node have reported: they outlive a roster, and while they
        find the new one, others must not take them for gone."""
        tree = self._actor.tree
        with suppress(TimeoutError, TetherError):
            async with asyncio.timeout(GATHER_S):
                await tree.first(GATHER_S)
                while self._unreported():
                    self._own_news.clear()
                    await self._own_news.wait()
        self.publisher.start()

    def _unreported(self) -> set[str]:
        reported = {worker.address for worker in self._own().workers}
        return {line.address for line in self._actor.tree.under(WORKERS)} - reported

    async def leave(self) -> None:
        """The node ends: say so, unless it is only this roster that does."""
        workers = self._actor.tree.node(WORKERS)
        if workers is not None and workers.state is not ChildStatus.RUNNING:
            self._leaving = True
            await self.publisher.farewell()

    def say_soon(self) -> None:
        """Something changed that the others shall know."""
        self._own_news.set()
        self.publisher.changed()

    def may_order(self, target: str) -> None:
        """
        Raises:
            Forbidden: other nodes won't listen: this one's certificate has not the role control.
        """
        node = self._options.node_id
        if target.partition("/")[0] != node and CONTROL not in self._identity.current.roles:
            raise Forbidden(
                f"node {node} has not the role {CONTROL}, so no other node takes its orders; give "
                "this one at a node that has it"
            )

    def own_changed(self, fleet: Fleet) -> None:
        """The workers of this node aren't what they were; whoever waits for their load can wait a
        little longer than for the rest."""
        seen = tuple((w.address, w.models, w.loadable, w.slots, w.draining) for w in fleet.workers)
        if seen != self._lasting:
            self._lasting = seen
            self.say_soon()
        else:
            self.publisher.load_changed()

    # ---- listening

    def announced(self, msg: Announce, sender: Address) -> Announced:
        """Another roster's announcement."""
        now = self._actor.loop.time()
        node = sender.node
        try:
            self._acceptance.admit(node, now)
            heard = self._opened(msg, node)
        except AnnouncementRefused as refused:
            self.refusals.add(refused.reason, node, str(refused), now)
            return Announced(refused=refused.reason, epoch=self._acceptance.epoch(node))
        self._taken.inc()
        self.publisher.met(node, sender)
        self._take(heard, now)
        return Announced(epoch=heard.epoch)

    def _opened(self, msg: Announce, sender: str) -> Heard:
        """The cheap looks first: a signature costs 0.2 ms."""
        if len(msg.payload) > MAX_BYTES or len(msg.certificate) > MAX_CERTIFICATE:
            raise AnnouncementRefused(
                Refusal.CROWDED, f"{len(msg.payload)} bytes are no announcement"
            )
        try:
            vouched = self._seal.opened(Signed(msg.payload, msg.certificate, msg.signature))
        except Forged as error:
            raise AnnouncementRefused(Refusal.FORGED, str(error)) from None
        except CertificateRefused as error:
            raise AnnouncementRefused(Refusal.UNTRUSTED, str(error)) from None
        except IdentityUnusable as error:
            raise Unavailable(f"this node knows nobody yet: {error}") from error
        return self._acceptance.take(
            msg.payload, signer=vouched.node, sender=sender, roles=vouched.roles
        )

    def _take(self, heard: Heard, now: float) -> None:
        node, presence = heard.node_id, heard.presence
        before = self.members.health(node)
        older = self.heard.get(node)
        self.heard[node] = heard
        if presence.leaving:
            self.members.left(node, now)
            self._view.drop(node)
        else:
            self.members.heard(node, now)
            self._view.put(node, presence.workers)
        health = self.members.health(node)
        if health is not before:
            now_ = str(health)
            lines.info("a node changes", (node, now_), node=node, before=str(before), now=now_)
        if older is None or older.epoch != heard.epoch:
            self.say_soon()  # it has just started, and knows nobody
        for order in heard.orders:
            if CONTROL in heard.roles:
                self.orders.obey(order, node)
            elif order.target.partition("/")[0] != node:  # what it tells itself is nothing to us
                why = f"{node} orders {order.verb[:64]} of {order.target[:200]!r}, without control"
                self.refusals.add(Refusal.UNENTITLED, node, why, now)
        if presence.revocations < self.revocations.number:
            self._actor.background(self.revocations.send(node), name="send revocations")
        self._settle()

    # ---- time

    def look(self, now: float) -> None:
        """Now and then: who has gone?"""
        for node in self.members.look(now):
            health = self.members.health(node)
            lines.warning("a node is silent", (node, str(health)), node=node, now=str(health))
            if health is Health.GONE:
                self._view.drop(node)
        self._view.look(now)
        self._settle()

    def _settle(self) -> None:
        """Bring the view, and whom we watch, in line with who is there."""
        members = self.members
        self._view.doubt(frozenset(n for n in members if members.health(n) is Health.SUSPECT))
        addresses = self._view.addresses
        for address in [a for a in self._reach if a not in addresses]:
            self._reach.pop(address)()
        for address in addresses:
            if address not in self._reach:
                self._reach[address] = self._actor.watch(
                    address, partial(self._out_of_reach, address)
                )
        self._count()
        self._changed()

    def _out_of_reach(self, address: str) -> None:
        """A worker's process is gone, or the way to it."""
        if self._reach.pop(address, None) is not None:
            node = address.partition("/")[0]
            lines.info("a worker of another node is out of reach", node, address=address)
            self._view.lost(address, self._actor.loop.time())
            self._settle()

    def _count(self) -> None:
        standing = [self.members.health(node) for node in self.members]
        for health, gauge in self._health.items():
            gauge.set(standing.count(health))
        metrics.cluster_guarding.set(self.members.guarding)

    # ---- speaking

    def _sealed(self, number: int) -> Sealed | None:
        payload = announce(self._options.node_id, self.epoch, number, self._entries())
        try:
            signed = self._seal.sign(payload)
        except IdentityUnusable:
            return None
        return Sealed(
            number,
            self.epoch,
            Announce(payload=payload, certificate=signed.certificate, signature=signed.signature),
        )

    def _entries(self) -> Iterator[Presence | Offer | Order]:
        options = self._options
        workers = self._speakable()
        tree = self._actor.tree
        yield Presence(
            topic=presence_topic(options.region),
            region=options.region,
            roles=options.roles,
            capabilities=options.capabilities,
            addresses={node.path: node.address for node in tree.under("control")},
            workers=workers,
            hardware=self.condition.hardware,
            breakers=self.condition.breakers,
            release=VERSION,
            draining=self.orders.draining,
            leaving=self._leaving,
            leads=self.condition.leads,
            revocations=self.revocations.number,
        )
        yield from offers_of(options.region, workers)
        yield from self.orders.given(self._actor.loop.time())

    def _speakable(self) -> tuple[HealthReport, ...]:
        own = self._own().workers
        if len(own) > MAX_WORKERS:
            bounds.refused.labels("announced_workers").inc(len(own) - MAX_WORKERS)
        return own[:MAX_WORKERS]

    def _answered(self, other: OtherNode, answer: Announced) -> None:
        """Somebody has seen an epoch of ours that is above this one: our clock went back, and what
        we had noted of it is lost."""
        if answer.refused != Refusal.STALE or answer.epoch < self.epoch:
            return
        now_ms = _now_ms()
        if answer.epoch > now_ms + EPOCH_AHEAD_MS:
            lines.error("another node says that we were in the far future", other.id, node=other.id)
            return
        self.epoch = epoch.begin(self._folder, now_ms, above=answer.epoch)
        lines.warning("our epoch was behind, and is raised", other.id, epoch=self.epoch)
        self.say_soon()

    async def _unreachable(self, other: OtherNode) -> None:
        """Is its host there, and nobody listens? Then it is no fault of the network, and the guard
        doesn't hold it."""
        if not other.host or self.members.health(other.id) is Health.UNKNOWN:
            return
        if await refuses(other.host, other.admin_port):
            self.members.refused(other.id)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
