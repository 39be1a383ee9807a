"""Contracts and errors as bytes."""

from __future__ import annotations

import msgspec
import pytest

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
from supervision.runtime import codec


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
