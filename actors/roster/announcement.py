"""The rules of announcements: what a node may announce, and which ones of others count.

An announcement counts if the connection it came by, its signature and its text name the same node,
that node is of the configuration, it speaks of itself alone and claims no role that its certificate
lacks, and (epoch, sequence) is above the last one taken of it. So whatever is forged, repeated or
late changes nothing.

Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import StrEnum
from typing import Final

import msgspec

from actors.contracts import Announcement, HealthReport, Offer, Order, Presence
from actors.core.node_roles import CONTROL, WORKER
from supervision.unreadable import UNREADABLE

MAX_BYTES: Final = 512 * 1024
MAX_ENTRIES: Final = 1024
MAX_WORKERS: Final = 256  # of one node
MAX_ORDERS: Final = 64  # of one node, that are remembered as carried out
RATE: Final = 20.0  # announcements of one node in a second; an honest one makes at most 10
BURST: Final = 100.0

_ADDRESS: Final = re.compile(r"([A-Za-z0-9_.:-]{1,64})/([A-Za-z0-9_.:-]{1,64})/([0-9]{1,5})")
_WORKER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

_encoder = msgspec.msgpack.Encoder()
_announcements = msgspec.msgpack.Decoder(Announcement)
_entries = msgspec.msgpack.Decoder(Presence | Offer | Order)


class Refusal(StrEnum):
    """Why an announcement doesn't count."""

    FORGED = "forged"  # nobody, or somebody else, has signed it
    UNTRUSTED = "untrusted"  # the certificate has ended, was revoked, or is of another cluster
    STRANGER = "stranger"  # of a node that isn't in the configuration, or of our own
    IMPOSTOR = "impostor"  # who has brought, signed or written it aren't the same node
    STALE = "stale"  # of an earlier epoch than was seen
    REPLAYED = "replayed"  # of this epoch, and not newer than was seen
    MALFORMED = "malformed"  # it can't be read, or its topics don't fit what it says
    CROWDED = "crowded"  # it says more than one node may
    UNENTITLED = "unentitled"  # what it says needs a role that its certificate lacks
    FLOODING = "flooding"  # its node says something too often; it wasn't looked at


class AnnouncementRefused(Exception):
    """An announcement doesn't count, for this `reason`."""

    def __init__(self, reason: Refusal, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


class Heard(msgspec.Struct, frozen=True):
    """What an announcement that counts says. `orders` are those that weren't heard before; `roles`
    are those of the certificate that it was signed with."""

    node_id: str
    epoch: int
    sequence: int
    presence: Presence
    offers: tuple[Offer, ...]
    orders: tuple[Order, ...]
    roles: tuple[str, ...] = ()


class _Known:
    __slots__ = ("at", "epoch", "orders", "sequence", "tokens")

    def __init__(self) -> None:
        self.tokens = BURST
        self.at = 0.0
        self.epoch = -1
        self.sequence = -1
        self.orders: dict[int, None] = {}  # numbers of those of this epoch, the newest last


class Acceptance:
    """The last word of each node of the configuration, and nothing of any other: what it holds
    doesn't grow with what it is sent."""

    def __init__(self, own: str, others: Iterable[str]) -> None:
        """By their ids."""
        self._known = {node: _Known() for node in others}
        self._nodes = frozenset((own, *self._known))

    def admit(self, sender: str, now: float) -> None:
        """What comes from there may be looked at, which costs a signature.

        Raises:
            Refused: it is no other node of the configuration, or says something too often.
        """
        known = self._known.get(sender)
        if known is None:
            raise AnnouncementRefused(
                Refusal.STRANGER, f"{sender} is no other node of the configuration"
            )
        known.tokens = min(BURST, known.tokens + RATE * max(0.0, now - known.at))
        known.at = now
        if known.tokens < 1:
            raise AnnouncementRefused(
                Refusal.FLOODING, f"{sender} announces more than {RATE:g} times a second"
            )
        known.tokens -= 1

    def epoch(self, node: str) -> int:
        """The newest that was seen of it; -1 if none was."""
        known = self._known.get(node)
        return -1 if known is None else known.epoch

    def take(
        self, payload: bytes, *, signer: str, sender: str, roles: tuple[str, ...] = ()
    ) -> Heard:
        """An announcement, which `signer` has signed and `sender` has brought; `roles` are those of
        the certificate.

        Raises:
            Refused: it doesn't count, and nothing has changed.
        """
        if sender not in self._known:
            raise AnnouncementRefused(
                Refusal.STRANGER, f"{sender} is no other node of the configuration"
            )
        if len(payload) > MAX_BYTES:
            raise AnnouncementRefused(Refusal.CROWDED, f"{len(payload)} bytes are no announcement")
        try:
            said = _announcements.decode(payload)
        except UNREADABLE as error:
            raise AnnouncementRefused(Refusal.MALFORMED, f"it can't be read: {error}") from None
        if not sender == signer == said.node_id:
            raise AnnouncementRefused(
                Refusal.IMPOSTOR,
                f"{sender} has brought what {signer} has signed in the name of "
                f"{said.node_id[:64]!r}",
            )
        known = self._known[sender]
        if said.epoch < known.epoch:
            raise AnnouncementRefused(
                Refusal.STALE, f"it is of epoch {said.epoch}, and {known.epoch} was seen"
            )
        if said.epoch == known.epoch and said.sequence <= known.sequence:
            raise AnnouncementRefused(
                Refusal.REPLAYED, f"it has number {said.sequence}, and {known.sequence} was seen"
            )
        presence, offers, orders = self._read(said)
        _check_roles(said.node_id, presence, roles)
        if said.epoch > known.epoch:
            known.orders.clear()
        known.epoch, known.sequence = said.epoch, said.sequence
        fresh = tuple(order for order in orders if order.number not in known.orders)
        for order in fresh:
            known.orders[order.number] = None
        while len(known.orders) > MAX_ORDERS:
            del known.orders[next(iter(known.orders))]
        return Heard(said.node_id, said.epoch, said.sequence, presence, offers, fresh, roles)

    def _read(self, said: Announcement) -> tuple[Presence, tuple[Offer, ...], tuple[Order, ...]]:
        if len(said.entries) > MAX_ENTRIES:
            raise AnnouncementRefused(Refusal.CROWDED, f"it has {len(said.entries)} entries")
        presences: list[Presence] = []
        offers: list[Offer] = []
        orders: list[Order] = []
        for raw in said.entries:
            try:
                entry = _entries.decode(raw)
            except msgspec.ValidationError as error:
                if str(error).endswith("at `$[0]`"):  # its tag is none: a kind of a later release
                    continue
                raise AnnouncementRefused(
                    Refusal.MALFORMED, f"an entry can't be read: {error}"
                ) from None
            except UNREADABLE as error:
                raise AnnouncementRefused(
                    Refusal.MALFORMED, f"an entry can't be read: {error}"
                ) from None
            if isinstance(entry, Presence):
                presences.append(entry)
            elif isinstance(entry, Offer):
                offers.append(entry)
            else:
                orders.append(entry)
        if len(presences) != 1:
            raise AnnouncementRefused(
                Refusal.MALFORMED, f"it has {len(presences)} presences in place of one"
            )
        presence = presences[0]
        if len(presence.workers) > MAX_WORKERS:
            raise AnnouncementRefused(Refusal.CROWDED, f"it has {len(presence.workers)} workers")
        if len(orders) > MAX_ORDERS:
            raise AnnouncementRefused(Refusal.CROWDED, f"it has {len(orders)} orders")
        self._check(said.node_id, presence)
        for offer in offers:
            if offer.topic != model_topic(offer.name, offer.version, presence.region):
                raise AnnouncementRefused(
                    Refusal.MALFORMED, f"an offer stands on {offer.topic[:200]!r}"
                )
        for order in orders:
            if not order.topic.startswith(control_topic("")):
                raise AnnouncementRefused(
                    Refusal.MALFORMED, f"an order stands on {order.topic[:200]!r}"
                )
        return presence, tuple(offers), tuple(orders)

    def _check(self, node: str, presence: Presence) -> None:
        """A node speaks for itself, and for the workers that it supervises, wherever they run."""
        if presence.topic != presence_topic(presence.region):
            raise AnnouncementRefused(
                Refusal.MALFORMED, f"a presence stands on {presence.topic[:200]!r}"
            )
        seen: set[str] = set()
        for worker in presence.workers:
            if worker.node_id != node:
                raise AnnouncementRefused(
                    Refusal.IMPOSTOR,
                    f"{node} speaks for {worker.worker_id[:64]!r} of {worker.node_id[:64]!r}",
                )
            if not _WORKER.fullmatch(worker.worker_id):
                raise AnnouncementRefused(
                    Refusal.MALFORMED, f"no worker is called {worker.worker_id[:200]!r}"
                )
            where = _node_of(worker.address)
            if where not in self._nodes or worker.worker_id in seen or worker.slots < 0:
                raise AnnouncementRefused(
                    Refusal.MALFORMED,
                    f"{worker.worker_id[:64]!r} stands there twice, or has no sensible address or "
                    "number of slots",
                )
            seen.add(worker.worker_id)
        for address in presence.addresses.values():
            if _node_of(address) != node:
                raise AnnouncementRefused(Refusal.IMPOSTOR, f"{node} is not at {address[:200]!r}")


def _check_roles(node: str, presence: Presence, roles: tuple[str, ...]) -> None:
    """Workers of a node's own need the role worker, those that it has placed at others control; and
    so does whoever says that it has a role."""
    needed = set(presence.roles)
    for worker in presence.workers:
        needed.add(WORKER if _node_of(worker.address) == node else CONTROL)
    lacks = sorted(needed.difference(roles))
    if lacks:
        raise AnnouncementRefused(
            Refusal.UNENTITLED,
            f"what {node} says needs {', '.join(lacks)[:200]}, and its certificate has "
            f"{', '.join(roles) or 'no roles'}; `tether ca renew {node} --roles` gives it others",
        )


def presence_topic(region: str) -> str:
    """Where the nodes of a region say that they are there."""
    return f"tether/presence/{region}"


def model_topic(model: str, version: str, region: str) -> str:
    """Where the nodes of a region offer a version of a model."""
    return f"tether/models/{model}/{version}/{region}"


def control_topic(region: str) -> str:
    """Where orders for the nodes of a region are given; "" stands for all regions."""
    return f"tether/control/{region}"


def announce(
    node_id: str, epoch: int, sequence: int, entries: Iterable[Presence | Offer | Order]
) -> bytes:
    """An announcement, ready to be signed."""
    raw = tuple(msgspec.Raw(_encoder.encode(entry)) for entry in entries)
    return _encoder.encode(
        Announcement(node_id=node_id, epoch=epoch, sequence=sequence, entries=raw)
    )


def offers_of(region: str, workers: Iterable[HealthReport]) -> tuple[Offer, ...]:
    """One offer a model, summed over the workers that answer for it."""
    found: dict[str, list[HealthReport]] = {}
    digests: dict[str, str] = {}
    for worker in workers:
        for number, ref in enumerate(worker.models):
            found.setdefault(ref, []).append(worker)
            if number < len(worker.digests):
                digests[ref] = worker.digests[number]
    made = []
    for ref, those in found.items():
        name, _, version = ref.partition("@")
        made.append(
            Offer(
                topic=model_topic(name, version, region),
                name=name,
                version=version,
                digest=digests.get(ref, ""),
                workers=tuple(worker.worker_id for worker in those),
                slots=sum(worker.slots for worker in those),
                free=sum(
                    max(0, worker.slots - worker.running) for worker in those if not worker.draining
                ),
                queued=sum(worker.queued for worker in those),
                resume_tag=" ".join(sorted({worker.resume_tag for worker in those})),
            )
        )
    return tuple(made)


def _node_of(address: str) -> str:
    """The node of a text that is an address; empty for any other."""
    found = _ADDRESS.fullmatch(address)
    if found is None or found[2] in {".", ".."} or int(found[3]) > 65535:
        return ""
    return found[1]
