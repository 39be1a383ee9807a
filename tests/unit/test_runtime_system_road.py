"""Who may say what on the system road: each message from each kind of sender."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import REGISTRY
from thespian.actors import ActorAddress, ActorExitRequest, ChildActorExited
from thespian.system.messages.admin import PendingActor, PendingActorResponse, SystemShutdown
from thespian.system.messages.convention import (
    ConventionDeRegister,
    ConventionInvite,
    ConventionRegister,
)

from supervision.errors import ProtocolError
from supervision.runtime import Address
from supervision.runtime.system_messages import ROWS, encode
from supervision.runtime.system_road import MAX_AWAITED, SystemRoad
from supervision.runtime.system_senders import Others
from tests.unit.test_runtime_system_messages import SAMPLES

HERE = Address("n1", "12-ab", 4001)
OWN = Address("n1", "77-cd", 4002)
ADMIN = Address("n2", "admin", 1900)
ACTOR = Address("n2", "99-ef", 4003)
OTHER = Address("n3", "admin", 1900)


def of(address: Address) -> ActorAddress:
    return ActorAddress(address)


def response(number: int, actual: Address | None, **more: Any) -> PendingActorResponse:
    return PendingActorResponse(of(HERE), number, None, actualAddress=actual and of(actual), **more)


def asked(asker: Address | None, name: str | None = None) -> PendingActor:
    return PendingActor("a.B", asker and of(asker), 3, {"gpu": True}, name)


def allowed(
    message: Any, sender: Address, *, guardian: str = "", awaits: int | None = None
) -> bool:
    road = SystemRoad(HERE, guardian)
    if awaits is not None:
        request = PendingActor("a.B", of(HERE), awaits, None, None)
        assert road.write(request, Address.admin("n1", 1900)) is not None
    try:
        read = road.read(sender, encode(message))
    except ProtocolError:
        return False
    assert type(read) is type(message)
    return True


@pytest.mark.parametrize("message", SAMPLES, ids=lambda message: type(message).__name__)
def test_a_process_of_the_own_node_may_say_everything(message: Any) -> None:
    assert allowed(message, OWN)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.cls.__name__)
def test_another_node_may_say_what_the_table_says(row: Any) -> None:
    """No message of another node's actor is taken but one: that which placed it here."""
    for message in (sample for sample in SAMPLES if type(sample) is row.cls):
        assert allowed(message, ACTOR, guardian="n2") == (row.others is Others.GUARDIAN)
        assert not allowed(message, ACTOR)
        assert not allowed(message, ACTOR, guardian="n3")
        if row.others is not Others.ADMINS:
            assert not allowed(message, ADMIN)


@pytest.mark.parametrize(
    ("message", "good"),
    [
        (ChildActorExited(of(ACTOR)), True),
        (ChildActorExited(of(OWN)), False),  # of a child here it can know nothing
        (ChildActorExited(of(OTHER)), False),
        (asked(ACTOR), True),
        (asked(Address("n3", "5-x", 4000)), True),  # the leader hands on what n3 asks for
        (asked(None), False),
        (asked(OWN), False),  # else our Admin would tell it of an actor that it never wanted
        (asked(ACTOR, "root"), False),
        (ConventionRegister(of(ADMIN), {}), True),
        (ConventionRegister(of(OTHER), {}), False),
        (ConventionRegister(of(Address("n2", "admin", 1901)), {}), False),
        (ConventionRegister(of(ADMIN), {}, preRegister=True), False),
        (ConventionDeRegister(of(ADMIN)), True),
        (ConventionDeRegister(of(OTHER)), False),
        (ConventionDeRegister(of(ADMIN), preRegistered=True), False),
        (ConventionInvite(), False),  # it would make the inviting node our leader
        (SystemShutdown(), False),
        (ActorExitRequest(), False),
    ],
)
def test_an_admin_of_another_node_speaks_for_its_own_node(message: Any, good: bool) -> None:
    assert allowed(message, ADMIN) == good


@pytest.mark.parametrize(
    ("message", "good"),
    [
        (response(3, ACTOR), True),
        (response(3, None, errorCode=0xE04), True),
        (response(4, ACTOR), False),  # nobody asked for that one
        (response(3, OWN), False),
        (response(3, OTHER), False),
        (PendingActorResponse(of(HERE), 3, "root", actualAddress=of(ACTOR)), False),
    ],
)
def test_another_node_answers_only_who_asked(message: Any, good: bool) -> None:
    assert allowed(message, ADMIN, awaits=3) == good
    assert not allowed(message, ADMIN)


def test_an_answer_is_taken_once() -> None:
    road = SystemRoad(HERE)
    road.write(asked(HERE), Address.admin("n1", 1900))
    payload = encode(response(3, ACTOR))
    assert road.read(ADMIN, payload)
    with pytest.raises(ProtocolError, match="nobody here waits for that actor"):
        road.read(ADMIN, payload)
    road.write(asked(HERE), Address.admin("n1", 1900))
    road.read(OWN, encode(response(3, OWN)))
    with pytest.raises(ProtocolError, match="nobody here waits"):
        road.read(ADMIN, payload)


def test_what_is_awaited_is_bounded() -> None:
    road = SystemRoad(HERE)
    for number in range(MAX_AWAITED + 5):
        road.write(PendingActor("a.B", None, number, None, None), Address.admin("n1", 1900))
    for number, good in ((0, False), (4, False), (5, True), (MAX_AWAITED + 4, True)):
        try:
            road.read(ADMIN, encode(response(number, ACTOR)))
        except ProtocolError:
            assert not good
        else:
            assert good


def test_what_another_node_would_refuse_is_not_sent() -> None:
    admin = SystemRoad(Address.admin("n1", 1900))
    here = of(Address.admin("n1", 1900))
    assert admin.write(ConventionRegister(here, {}), ADMIN) is not None
    assert admin.write(asked(HERE), ADMIN) is not None
    assert admin.write(ConventionInvite(), ADMIN) is None
    assert admin.write(SystemShutdown(), ADMIN) is None
    assert admin.write(asked(HERE, "name"), ADMIN) is None
    assert admin.write(asked(ACTOR), ADMIN) is None
    assert admin.write(SystemShutdown(), OWN) is not None
    actor = SystemRoad(HERE)
    assert actor.write(ActorExitRequest(), ACTOR) is not None
    assert actor.write(asked(HERE), ADMIN) is None
    assert actor.write("plain", ACTOR) is None


def test_what_is_refused_is_counted_and_told_a_few_times(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def counted(reason: str) -> float:
        found = REGISTRY.get_sample_value("tether_system_refused_total", {"reason": reason})
        return found or 0.0

    malformed, sender = counted("malformed"), counted("sender")
    road = SystemRoad(HERE)
    for _ in range(30):
        with pytest.raises(ProtocolError):
            road.read(ADMIN, b"\x80\x05N.")
        with pytest.raises(ProtocolError, match="a SystemShutdown of n2/admin/1900 is refused"):
            road.read(ADMIN, encode(SystemShutdown()))
    assert (counted("malformed"), counted("sender")) == (malformed + 30, sender + 30)
    said = "".join(capsys.readouterr())
    assert 0 < said.count("refused a system message") <= 10
