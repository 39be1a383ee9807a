"""Announcements of another node's roster, signed as if by it."""

from __future__ import annotations

from random import Random

import msgspec

from actors.contracts import Announcement, HealthReport, Offer, Order, Presence
from actors.roster.announcement import (
    Acceptance,
    AnnouncementRefused,
    announce,
    control_topic,
    model_topic,
    presence_topic,
)
from bench.fuzz.mutation import packed_changed
from bench.fuzz.target import Target
from supervision.unreadable import UNREADABLE

GROWTH = 64
SLACK = 32_768

_WORKER = HealthReport(
    worker_id="w",
    node_id="n2",
    address="n2/12-w/4000",
    region="eu",
    slots=4,
    running=1,
    queued=0,
    models=("org/echo@1",),
    digests=("d1",),
    epoch=1,
    sequence=1,
)
_PRESENCE = Presence(topic=presence_topic("eu"), region="eu", workers=(_WORKER,))
_OFFER = Offer(topic=model_topic("org/echo", "1", "eu"), name="org/echo", version="1")
_ORDER = Order(topic=control_topic(""), number=7, verb="drain", target="n3")


def read(data: bytes) -> object:
    acceptance = Acceptance("n1", ["n2", "n3"])
    acceptance.admit("n2", 0.0)
    return acceptance.take(data, signer="n2", sender="n2")


def changed(data: bytes, random: Random) -> bytes:
    """One of the entries, which lie in it as they are, or the whole."""
    try:
        said = msgspec.msgpack.decode(data, type=Announcement)
    except UNREADABLE:
        return packed_changed(data, random)
    if not said.entries or random.random() < 0.3:
        return packed_changed(data, random)
    entries = [bytes(entry) for entry in said.entries]
    at = random.randrange(len(entries))
    entries[at] = packed_changed(entries[at], random)
    try:
        whole = [msgspec.Raw(entry) for entry in entries]
        return msgspec.msgpack.encode(msgspec.structs.replace(said, entries=tuple(whole)))
    except (msgspec.MsgspecError, ValueError):
        return packed_changed(data, random)


TARGET = Target(
    name="announcements",
    read=read,
    seeds=(
        announce("n2", 1, 1, [_PRESENCE]),
        announce("n2", 2, 1, [_PRESENCE, _OFFER, _ORDER]),
    ),
    growth=GROWTH,
    slack=SLACK,
    ours=(AnnouncementRefused,),
    classes=(Announcement, HealthReport, Offer, Order, Presence),
    change=changed,
)
