"""Thespian's messages on the wire: each comes back, and nothing but what a row allows comes in."""

from __future__ import annotations

import logging
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from thespian.actors import (
    ActorAddress,
    ActorExitRequest,
    ActorSystemConventionUpdate,
    ChildActorExited,
    DeadEnvelope,
    PoisonMessage,
    ValidateSource,
    WakeupMessage,
)
from thespian.system.addressManager import ActorAddressManager, CannotPickleAddress
from thespian.system.logdirector import LogAggregator, LoggerExitRequest, LoggerFileDup
from thespian.system.messages import admin, convention, multiproc

from supervision.errors import ProtocolError
from supervision.runtime import Address
from supervision.runtime.packed import GROWTH, SLACK, pack, unpack
from supervision.runtime.system_messages import ROWS, decode, encode

HERE = ActorAddress(Address("n1", "12-ab"))
THERE = ActorAddress(Address("n2", "admin", 1900))
CAPABILITIES = {"Python Version": (3, 11, "final"), "gpu": True, "Routes": {"n2": "h:1"}, "x": 0.5}


def asked() -> admin.PendingActor:
    return admin.PendingActor("a.B", HERE, 3, {"gpu": True, "near": HERE, "t": (1, [2])}, None)


SAMPLES = (
    ActorExitRequest(),
    ActorExitRequest(recursive=False),
    ChildActorExited(HERE),
    asked(),
    admin.PendingActor("a.B", None, 0, None, "name"),
    admin.PendingActorResponse(HERE, 3, None, errorCode=0xE04, errorStr="no such class"),
    admin.PendingActorResponse(HERE, 3, "name", actualAddress=THERE),
    convention.ConventionRegister(THERE, CAPABILITIES, True),
    convention.ConventionDeRegister(THERE, True),
    convention.ConventionInvite(),
    convention.NotifyOnSystemRegistration(HERE, True),
    admin.QueryExists(),
    admin.QueryAck("tether", 1, False),
    admin.SystemShutdown(),
    admin.SystemShutdownCompleted(),
    multiproc.EndpointConnected(0),
    multiproc.LoggerConnected(),
    LoggerExitRequest(),
    LogAggregator(None),
    LogAggregator(THERE),
    logging.LogRecord("n", logging.INFO, "p", 1, "text", None, None),
    admin.CapabilityUpdate("gpu", None),
    admin.NewCapabilities(CAPABILITIES, THERE),
    admin.HandleDeadLetters(HERE, True),
    admin.NotifyOnSourceAvailability(HERE, False),
    DeadEnvelope(HERE, asked()),
    DeadEnvelope(HERE, ["plain"]),
    PoisonMessage(asked(), "why"),
    ActorSystemConventionUpdate(THERE, CAPABILITIES, False),
)


def told(value: Any) -> Any:
    """What a message says, for comparing."""
    if isinstance(value, ActorAddress):
        return str(value.addressDetails)
    if isinstance(value, list | tuple):
        return type(value)(map(told, value))
    if isinstance(value, dict):
        return {key: told(one) for key, one in value.items()}
    if hasattr(value, "__dict__"):
        said = {name: one for name, one in vars(value).items() if one is not None}
        return (type(value), told(said))
    return value


@pytest.mark.parametrize("message", SAMPLES, ids=lambda message: type(message).__name__)
def test_each_message_comes_back_as_it_was(message: Any) -> None:
    back = decode(encode(message))
    assert type(back) is type(message)
    assert told(back) == told(message)


def test_each_row_has_a_sample() -> None:
    assert {type(message) for message in SAMPLES} == {row.cls for row in ROWS}


@pytest.mark.parametrize("value", [None, "make", 7, [1, ("a", b"b")], {"k": [HERE]}, (HERE, 1)])
def test_plain_values_are_said_as_they_are(value: object) -> None:
    assert told(decode(encode(value))) == told(value)


def test_a_record_of_a_log_is_text_when_it_leaves() -> None:
    record = logging.LogRecord("n" * 999, logging.WARNING, "p", 1, "x" * 99_999, None, None)
    record.exc_text = "\ud800" * 3
    back = decode(encode(record))
    assert back.getMessage().startswith("xxxx")
    assert len(back.getMessage()) == 32_768
    assert back.exc_text == "???"
    assert logging.Formatter("%(asctime)s %(levelname)s %(message)s").format(back)

    class OfALibrary(logging.LogRecord):
        pass

    back = decode(encode(OfALibrary("n", 20, "p", 1, "text", None, None)))
    assert type(back) is logging.LogRecord


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (ValidateSource("hash", b"print()"), "a ValidateSource is said to no other process"),
        (admin.RegisterSourceAuthority(HERE), "is said to no other process"),
        (WakeupMessage(1.0), "is said to no other process"),
        (LoggerFileDup(), "is said to no other process"),
        (DeadEnvelope(HERE, DeadEnvelope(HERE, 1)), "is in no other message"),
        (PoisonMessage(object()), "is nothing that a system message may hold"),
        (object(), "is nothing that a system message may hold"),
        (admin.PendingActor("a.B", HERE, -1, None, None), "instanceNum of a PendingActor must be"),
        (admin.PendingActor("a.B", HERE, 1, None, None, "hash"), "sourceHash of a PendingActor"),
        (admin.PendingActor("x" * 257, HERE, 1, None, None), "actorClassName of a PendingActor"),
        (ChildActorExited(None), "childAddr of a ChildActorExited must be an address"),
        (ChildActorExited(ActorAddress("/ActorSys")), "must be an address"),
        ([ActorAddress("/ActorSys")], "must be an address"),
    ],
)
def test_what_no_row_allows_is_not_said(message: object, why: str) -> None:
    with pytest.raises(ProtocolError, match=why):
        encode(message)


def test_a_child_that_is_not_up_yet_is_waited_for() -> None:
    manager = ActorAddressManager(THERE, HERE)
    child = manager.createLocalAddress()
    for message in (
        ChildActorExited(child),
        [child],
        admin.PendingActor("a.B", child, 1, {}, None),
    ):
        with pytest.raises(CannotPickleAddress):
            encode(message)
    manager.associateUseableAddress(HERE, child.addressDetails.addressInstanceNum, THERE)
    assert told(decode(encode(ChildActorExited(child))).childAddress) == "n2/admin/1900"


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (None, "a list that begins with a name"),
        ([], "a list that begins with a name"),
        ([1], "a list that begins with a name"),
        (("ActorExitRequest", True), "a list that begins with a name"),
        (["NoSuchMessage"], "'NoSuchMessage' is the name of no system message"),
        (["ValidateSource", "h", b"", ""], "the name of no system message"),
        (["Address", "n1"], "the name of no system message"),
        (["supervision.runtime.address.Address"], "the name of no system message"),
        (["ActorExitRequest"], "has 1 fields, and not 0"),
        (["ActorExitRequest", True, True], "has 1 fields, and not 2"),
        (["ActorExitRequest", 1], "recursive of a ActorExitRequest must be true or false"),
        (["ActorExitRequest", None], "must be true or false"),
        (["EndpointConnected", True], "must be a whole number"),
        (["EndpointConnected", -1], "must be a whole number"),
        (["EndpointConnected", 2**40], "must be a whole number"),
        (["EndpointConnected", 1.0], "must be a whole number"),
        (["ChildActorExited", "n1/12-ab/0"], "must be an address"),
        (["PendingActor", *([None] * 8)], "must be text of at most 256 characters"),
        (["PendingActor", "a.B", None, 1, None, None, "hash", [], None], "must be None"),
        (["PendingActor", "a.B", None, 1, None, None, None, [1], None], "must be an address"),
        (["PendingActor", "a.B", None, 1, None, None, None, [None] * 257, None], "at most 256"),
        (["ConventionRegister", Address("n", "a"), [], True, True], "must be a dict"),
        (["PoisonMessage", ["PoisonMessage", ["", 1], ""], ""], "is in no other message"),
        (["PoisonMessage", ["ActorExitRequest"], ""], "has 1 fields, and not 0"),
        (["PoisonMessage", 1, ""], "a list that begins with a name"),
        (["", 1, 2], "a plain value is one, and not 2"),
        ([""], "a plain value is one, and not 0"),
    ],
)
def test_what_no_row_allows_does_not_come_in(said: object, why: str) -> None:
    with pytest.raises(ProtocolError, match=why):
        decode(pack(said))


# Three samples of what pickles allowed. In protocol 0 to 5 they were all read.
ATTRIBUTE = b"csupervision.runtime.address\nAddress\n(N}S'node'\nS'n1'\nstb."
METHOD = b"cthespian.actors\nActorExitRequest\n(N}S'isRecursive'\nI00\nstb."
RANGE = b"cbuiltins\nset\n(cbuiltins\nrange\n(I5000000\ntRtR."


@pytest.mark.parametrize("payload", [ATTRIBUTE, METHOD, RANGE, b"", b"garbage", b"\x80\x05N."])
def test_a_pickle_is_no_message(payload: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError):
            decode(payload)
        assert tracemalloc.get_traced_memory()[1] <= GROWTH * len(payload) + SLACK
    finally:
        tracemalloc.stop()
    assert Address("n2", "12-ab").node == "n2"
    assert ActorExitRequest().isRecursive


def classes() -> Iterator[type]:
    yield Address
    yield ActorAddress
    yield logging.LogRecord
    yield from (row.cls for row in ROWS)


def changed(value: Any, data: st.DataObject) -> Any:
    """`value` with one part of it exchanged."""
    other = st.none() | st.booleans() | st.integers(-5, 2**64 - 1) | st.text(max_size=9)
    other |= st.sampled_from([[], {}, b"", 1.5, "__class__", Address("n3", "admin", 1)])
    if isinstance(value, list) and value and data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(value) - 1))
        new = changed(value[at], data)
        drawn = data.draw(st.sampled_from(["exchange", "drop", "double"]))
        if drawn == "exchange":
            return [*value[:at], new, *value[at + 1 :]]
        return value[:at] + value[at + 1 :] if drawn == "drop" else [*value, new]
    if isinstance(value, dict) and value and data.draw(st.booleans()):
        return {**value, data.draw(st.sampled_from(sorted(value))): data.draw(other)}
    return data.draw(other)


@given(st.sampled_from(SAMPLES), st.data())
def test_a_message_that_was_tampered_with_is_one_of_a_row_or_an_error(
    message: Any, data: st.DataObject
) -> None:
    before = [(cls, dict(vars(cls))) for cls in classes()]
    try:
        back = decode(pack(changed(unpack(encode(message)), data)))
    except ProtocolError:
        pass
    else:
        row = next((row for row in ROWS if row.cls is type(back)), None)
        assert row is None or set(vars(back)) == set(row.fields)
        encode(back)  # what was taken may be said
    assert before == [(cls, dict(vars(cls))) for cls in classes()]
