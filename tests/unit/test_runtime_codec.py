"""Contracts, errors and system messages as bytes."""

from __future__ import annotations

import datetime
import logging
import os
import pickle

import msgspec
import pytest
from thespian.actors import ActorAddress, ActorExitRequest, ChildActorExited
from thespian.system.messages.admin import PendingActor

from actors.contracts import Fleet, Usage, WatchFleet
from actors.errors import AnswerGone
from supervision.contracts import Contract, known
from supervision.errors import (
    Internal,
    PeerLost,
    ProtocolError,
    RateLimited,
    TetherError,
    Unfamiliar,
    from_code,
)
from supervision.runtime import Address, codec, unpickler


def test_contracts_survive():
    for contract in (WatchFleet(), Fleet(version=3, workers=())):
        assert codec.decode(codec.encode(contract)) == contract


def test_contracts_imported_later_are_found():
    codec.decode(codec.encode(WatchFleet()))

    class UnitLate(Contract, frozen=True):
        word: str

    assert UnitLate in known()
    assert codec.decode(codec.encode(UnitLate(word="x"))) == UnitLate(word="x")


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        b"\xc3",
        msgspec.msgpack.encode(["NoSuchContract", 1]),
        msgspec.msgpack.encode(["Fleet", "not a number", []]),
        msgspec.msgpack.encode({"type": "Fleet"}),
        codec.encode(Usage()),
        codec.encode(WatchFleet()) + b"tail",
    ],
)
def test_what_is_no_contract_is_a_protocol_error(payload: bytes):
    with pytest.raises(ProtocolError):
        codec.decode(payload)
    assert codec.decode(codec.encode(WatchFleet())) == WatchFleet()


def test_errors_come_back_as_their_class():
    error = codec.decode_error(
        codec.encode_error(RateLimited("slow down", retry_after_s=1.5, param="tokens"))
    )
    assert type(error) is RateLimited
    assert (error.message, error.retry_after_s, error.param) == ("slow down", 1.5, "tokens")
    for cls in (AnswerGone, PeerLost, ProtocolError):
        assert type(codec.decode_error(codec.encode_error(cls("x")))) is cls


def test_other_errors_keep_their_text_to_themselves():
    error = codec.decode_error(codec.encode_error(KeyError("password=hunter2")))
    assert type(error) is Internal
    assert "KeyError" in error.message
    assert "hunter2" not in error.message


def test_errors_of_another_release_or_none_at_all():
    told = codec.Fault("new_code", "text", 2.0, "model", 404, False, True)
    error = codec.decode_error(codec.encode(told))
    assert type(error) is Unfamiliar
    assert (error.code, error.status, error.retryable) == ("new_code", 404, False)
    assert (error.blames_request, error.retry_after_s, error.param) == (True, 2.0, "model")
    assert codec.encode_error(error) == codec.encode(told)  # it is handed on as it came
    assert type(codec.decode_error(b"\xc1")) is Internal
    assert isinstance(from_code("protocol_error", "x"), ProtocolError)
    assert isinstance(codec.decode_error(b""), TetherError)


def test_system_messages_survive():
    address = ActorAddress(Address("n1", "12-ab"))
    for message in (ActorExitRequest(), ChildActorExited(address)):
        back = unpickler.loads(unpickler.dumps(message))
        assert type(back) is type(message)
    back = unpickler.loads(unpickler.dumps(PendingActor("a.B", address, 3, {"x": {1}}, "name")))
    assert back.forActor == address
    assert (back.instanceNum, back.targetActorReq, back.globalName) == (3, {"x": {1}}, "name")
    record = logging.LogRecord("n", logging.INFO, "p", 1, "text %s", ("x",), None)
    assert unpickler.loads(unpickler.dumps(record)).getMessage() == "text x"
    delta = datetime.timedelta(seconds=1)
    assert unpickler.loads(unpickler.dumps(delta)) == delta


class Evil:
    def __init__(self, call, *args):
        self.call = (call, args)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "evil",
    [
        Evil(os.system, "true"),
        Evil(eval, "1"),
        Evil(getattr, "x", "join"),
        Evil(__import__, "os"),
        Evil(pickle.loads, b"N."),
        Evil(logging.FileHandler, "x"),
    ],
)
def test_code_in_system_messages_is_refused(evil: Evil):
    with pytest.raises(ProtocolError):
        unpickler.loads(pickle.dumps(evil))
    message = ActorExitRequest()
    message.extra = evil
    with pytest.raises(ProtocolError):
        unpickler.loads(pickle.dumps(message))


@pytest.mark.parametrize(
    "opcodes",
    [
        b"cthespian.actors\nActorSystem\n.",  # a class there that is no message
        b"cthespian.actors\nlogging\n.",  # a module that it imports
        b"\x80\x04\x8c\x0fthespian.actors\x8c\x0elogging.system\x93.",  # a path through one
        b"cthespian.system.utilis\nthesplog\n.",
        b"cthespian.system.transport\nthesplog\n.",  # a function that it imports
        b"cthespian.system.transport\nlogging\n.",
        b"cthespian.system.sourceLoader\nloadModuleFromHashSource\n.",
        b"cposix\nsystem\n.",
        b"",
        b"garbage",
        b"\x80\x05",
    ],
)
def test_names_that_are_no_message_classes_are_refused(opcodes: bytes):
    with pytest.raises(ProtocolError):
        unpickler.loads(opcodes)


def test_trusting_takes_anything():
    assert unpickler.loads(pickle.dumps(Evil(eval, "6 * 7")), trusting=True) == 42
