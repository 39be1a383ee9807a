"""Which announcements count."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.contracts import Announcement, HealthReport, Offer, Order, Presence
from actors.core.node_roles import ROLES
from actors.roster import announcement
from actors.roster.announcement import (
    BURST,
    MAX_BYTES,
    MAX_ORDERS,
    MAX_WORKERS,
    RATE,
    Acceptance,
    AnnouncementRefused,
    Refusal,
    announce,
    control_topic,
    model_topic,
    offers_of,
    presence_topic,
)


def worker(node: str = "n2", name: str = "w", **fields: object) -> HealthReport:
    values: dict[str, object] = {
        "worker_id": name,
        "node_id": node,
        "address": f"{node}/12-{name}/4000",
        "region": "eu",
        "slots": 4,
        "running": 1,
        "queued": 0,
        "models": ("org/echo@1",),
        "digests": ("d1",),
        "epoch": 1,
        "sequence": 1,
    }
    return HealthReport(**(values | fields))  # type: ignore[arg-type]


def presence(*workers: HealthReport, **fields: object) -> Presence:
    values: dict[str, object] = {"topic": presence_topic("eu"), "region": "eu", "workers": workers}
    return Presence(**(values | fields))  # type: ignore[arg-type]


def order(number: int, topic: str = control_topic("")) -> Order:
    return Order(topic=topic, number=number, verb="drain", target="n3")


def said(
    epoch: int = 1,
    sequence: int = 1,
    entries: Iterable[Presence | Offer | Order] | None = None,
    node: str = "n2",
) -> bytes:
    return announce(node, epoch, sequence, entries or [presence(worker(node))])


def take(made: Acceptance, payload: bytes, signer: str = "n2", sender: str = "n2"):
    return made.take(payload, signer=signer, sender=sender, roles=ROLES)


def refusal(made: Acceptance, payload: bytes, signer: str = "n2", sender: str = "n2") -> Refusal:
    with pytest.raises(AnnouncementRefused) as refused:
        take(made, payload, signer, sender)
    return refused.value.reason


def test_a_node_that_comes_back_is_taken_and_its_past_is_not():
    made = Acceptance("n1", ["n2", "n3"])
    assert made.epoch("n2") == -1
    heard = take(made, said(5, 9))
    assert (heard.node_id, heard.epoch, heard.sequence) == ("n2", 5, 9)
    assert heard.presence.workers == (worker(),)
    assert refusal(made, said(5, 9)) is Refusal.REPLAYED
    assert refusal(made, said(5, 8)) is Refusal.REPLAYED
    assert refusal(made, said(4, 99)) is Refusal.STALE
    take(made, said(6, 0))
    assert refusal(made, said(5, 10)) is Refusal.STALE
    assert made.epoch("n2") == 6
    assert made.epoch("n3") == -1


def test_nobody_speaks_for_another():
    made = Acceptance("n1", ["n2", "n3"])
    theirs = said(node="n3")
    assert refusal(made, theirs, signer="n3", sender="n2") is Refusal.IMPOSTOR, "carried by n2"
    assert refusal(made, theirs, signer="n2", sender="n2") is Refusal.IMPOSTOR, "signed by n2"
    assert refusal(made, theirs, signer="n2", sender="n3") is Refusal.IMPOSTOR
    assert refusal(made, said(node="n4"), "n4", "n4") is Refusal.STRANGER
    for entry in (
        presence(worker("n3")),
        presence(worker(), addresses={"control/roster": "n3/1-a/1"}),
    ):
        assert refusal(made, said(entries=[entry])) is Refusal.IMPOSTOR
    take(made, said())


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        ([], Refusal.MALFORMED),
        ([presence(), presence()], Refusal.MALFORMED),
        ([presence(topic="tether/presence/us")], Refusal.MALFORMED),
        ([presence(worker(), worker())], Refusal.MALFORMED),
        ([presence(worker(slots=-1))], Refusal.MALFORMED),
        ([presence(worker(address="n2/w"))], Refusal.MALFORMED),
        ([presence(worker(address="n2/w/99999"))], Refusal.MALFORMED),
        ([presence(worker(address="n2/../1"))], Refusal.MALFORMED),
        ([presence(worker(address="n9/w/1"))], Refusal.MALFORMED),
        ([presence(), Offer(topic="x", name="echo", version="1")], Refusal.MALFORMED),
        ([presence(), order(1, "tether/presence/eu")], Refusal.MALFORMED),
        ([presence(*(worker(name=f"w{n}") for n in range(MAX_WORKERS + 1)))], Refusal.CROWDED),
        ([presence(), *(order(n) for n in range(MAX_ORDERS + 1))], Refusal.CROWDED),
    ],
)
def test_what_does_not_fit(entries: list[Presence | Offer | Order], why: Refusal):
    made = Acceptance("n1", ["n2"])
    assert refusal(made, announce("n2", 1, 1, entries)) is why
    take(made, said())


def test_what_can_not_be_read():
    made = Acceptance("n1", ["n2"])
    entry = msgspec.Raw(msgspec.msgpack.encode(["presence"]))
    short = Announcement(node_id="n2", epoch=1, sequence=1, entries=(entry,))
    for payload in (b"", b"\xc1", said()[:-1], msgspec.msgpack.encode(short)):
        assert refusal(made, payload) is Refusal.MALFORMED
    assert refusal(made, bytes(MAX_BYTES + 1)) is Refusal.CROWDED
    many = Announcement(node_id="n2", epoch=1, sequence=1, entries=(entry,) * 2000)
    assert refusal(made, msgspec.msgpack.encode(many)) is Refusal.CROWDED


def test_entries_of_a_later_release_are_passed_over():
    made = Acceptance("n1", ["n2"])
    raw = tuple(
        msgspec.Raw(msgspec.msgpack.encode(entry)) for entry in (["weather", "fine"], presence())
    )
    later = Announcement(node_id="n2", epoch=1, sequence=1, entries=raw)
    assert take(made, msgspec.msgpack.encode(later)).presence == presence()


def test_an_order_is_heard_once():
    made = Acceptance("n1", ["n2"])
    first = take(made, said(1, 1, [presence(), order(1), order(2)]))
    assert [o.number for o in first.orders] == [1, 2]
    again = take(made, said(1, 2, [presence(), order(1), order(2), order(3)]))
    assert [o.number for o in again.orders] == [3]
    anew = take(made, said(2, 1, [presence(), order(1)]))
    assert [o.number for o in anew.orders] == [1], "another start counts from 1 again"


def test_offers_sum_up_what_the_workers_say():
    one = worker(name="a", resume_tag="t")
    two = worker(name="b", running=6, queued=2, models=("org/echo@1", "x@2"), digests=("d1", "d2"))
    away = worker(name="c", running=0, draining=True)
    offers = {offer.name: offer for offer in offers_of("eu", [one, two, away])}
    echo = offers["org/echo"]
    assert echo.topic == "tether/models/org/echo/1/eu" == model_topic("org/echo", "1", "eu")
    assert (echo.slots, echo.free, echo.queued, echo.digest) == (12, 3, 2, "d1")
    assert echo.workers == ("a", "b", "c")
    assert offers["x"].workers == ("b",)
    made = Acceptance("n1", ["n2"])
    assert take(made, said(entries=[presence(one, two), *offers.values()])).offers == tuple(
        offers.values()
    )


def test_topics():
    assert presence_topic("eu") == "tether/presence/eu"
    assert control_topic("eu") == "tether/control/eu"


# ---- whatever comes, in whatever order

NODES = ("n1", "n2", "n3", "n4", "x" * 30)
SPOKEN = st.tuples(
    st.sampled_from(NODES),  # who it names
    st.sampled_from(NODES),  # who has signed it
    st.sampled_from(NODES),  # who has brought it
    st.integers(0, 3),
    st.integers(0, 6),
    st.booleans(),  # is it whole?
)


@given(st.lists(SPOKEN, max_size=60))
def test_only_what_is_new_and_its_own_changes_anything(
    spoken: list[tuple[str, str, str, int, int, bool]],
):
    made = Acceptance("n1", ["n2", "n3"])
    model: dict[str, tuple[int, int]] = {}
    for named, signer, sender, epoch, sequence, whole in spoken:
        payload = said(epoch, sequence, node=named)
        payload = payload if whole else payload[:-1]
        good = (
            whole
            and named == signer == sender
            and named in ("n2", "n3")
            and (epoch, sequence) > model.get(named, (-1, -1))
        )
        before = {node: made.epoch(node) for node in NODES}
        if good:
            heard = made.take(payload, signer=signer, sender=sender, roles=ROLES)
            assert (heard.node_id, heard.epoch, heard.sequence) == (named, epoch, sequence)
            model[named] = (epoch, sequence)
        else:
            with pytest.raises(AnnouncementRefused):
                made.take(payload, signer=signer, sender=sender, roles=ROLES)
            assert {node: made.epoch(node) for node in NODES} == before
    assert {node: made.epoch(node) for node in ("n2", "n3")} == {
        node: model.get(node, (-1, -1))[0] for node in ("n2", "n3")
    }


@given(st.permutations(range(8)), st.integers(0, 40))
def test_duplicated_and_reordered_ends_as_if_in_order(order_: list[int], cut: int):
    """The last word wins, whatever else arrives, how often and when."""
    spoken = [said(1 + n // 4, n % 4, [presence(worker(running=n))]) for n in range(8)]
    made = Acceptance("n1", ["n2"])
    last = None
    for n in [*order_, *order_[: cut % 8], *range(8), *order_]:
        with contextlib.suppress(AnnouncementRefused):
            last = take(made, spoken[n])
    assert last is not None
    assert last.presence.workers[0].running == 7


def test_a_flood_of_unknown_nodes_and_of_orders_leaves_nothing_behind():
    made = Acceptance("n1", ["n2"])
    for n in range(5000):
        with pytest.raises(AnnouncementRefused):
            take(made, b"", signer=f"x{n}", sender=f"x{n}")
    assert len(made._known) == 1
    for n in range(50):
        orders = [order(n * MAX_ORDERS + m) for m in range(MAX_ORDERS)]
        assert len(take(made, said(1, n + 1, [presence(), *orders])).orders) == MAX_ORDERS
    assert len(made._known["n2"].orders) == MAX_ORDERS


def test_who_floods_is_not_looked_at_and_others_are():
    made = Acceptance("n1", ["n2", "n3"])
    for _ in range(int(BURST)):
        made.admit("n2", 5.0)
    for sender, why in (("n2", Refusal.FLOODING), ("x", Refusal.STRANGER)):
        with pytest.raises(AnnouncementRefused) as refused:
            made.admit(sender, 5.0)
        assert refused.value.reason is why
    made.admit("n3", 5.0)
    made.admit("n2", 5.0 + 1 / RATE + 0.001)
    with pytest.raises(AnnouncementRefused):
        made.admit("n2", 5.0 + 1 / RATE + 0.001)


def test_the_bounds_stand_together():
    """The most that a node may say fits into one announcement."""
    workers = [
        worker(name=f"w{n}", models=("m" * 60 + "@1",) * 4, digests=("d" * 64,) * 4)
        for n in range(MAX_WORKERS)
    ]
    assert len(said(entries=[presence(*workers)])) < MAX_BYTES
    assert announcement.MAX_ENTRIES > MAX_ORDERS + 1
