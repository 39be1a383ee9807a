"""Bytes that nobody can read are told so by an error of ours, whoever reads them.

Found by `scripts/prove fuzz`: msgspec raises UnicodeDecodeError for text that is no UTF-8, and
RecursionError for what is nested too deep, and neither is one of its own errors."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from actors.roster.announcement import Acceptance, AnnouncementRefused, Refusal
from supervision.contracts import Contract
from supervision.errors import Internal, ProtocolError
from supervision.runtime import codec
from supervision.runtime.wire import read_greeting
from supervision.unreadable import UNREADABLE

ROOT = Path(__file__).parents[2]
PACKAGES = ("supervision", "actors", "tether")


class UnitUnreadable(Contract, frozen=True):
    word: str = ""


NO_TEXT = b"\xa2\xc1\xc1"
DEEP = b"\x91" * 5000 + b"\xc0"


def array(*parts: bytes) -> bytes:
    return bytes([0x90 + len(parts)]) + b"".join(parts)


def tag(word: str) -> bytes:
    return msgspec.msgpack.encode(word)


@pytest.mark.parametrize("what", [NO_TEXT, DEEP], ids=["no text", "too deep"])
def test_it_is_an_error_of_ours(what: bytes) -> None:
    codec.decode(codec.encode(UnitUnreadable(word="x")))
    for payload in (
        array(NO_TEXT, b"\xc0"),
        array(tag("UnitUnreadable"), what),
        array(tag("UnitUnreadable"), b"\xa1x", DEEP),  # where a later release appends something
    ):
        with pytest.raises(ProtocolError, match="not a contract that is known here"):
            codec.decode(payload)
    greeting = array(b"\x03", what, b"\xa1a", b"\x01", b"\x01")
    with pytest.raises(ProtocolError, match="no greeting"):
        read_greeting(greeting)
    with pytest.raises(ProtocolError, match="no greeting"):
        read_greeting(array(b"\x03", b"\xa1n", b"\xa1a", b"\x01", b"\x01", b"\x01", DEEP))
    assert type(codec.decode_error(array(what, b"\xa1x"))) is Internal
    acceptance = Acceptance("n1", ["n2"])
    for said in (
        array(what, b"\x01", b"\x01", array()),
        array(b"\xa2n2", b"\x01", b"\x01", array(array(tag("presence"), what))),
        array(b"\xa2n2", b"\x01", b"\x01", array(what)),
    ):
        with pytest.raises(AnnouncementRefused) as refused:
            acceptance.take(said, signer="n2", sender="n2")
        assert refused.value.reason is Refusal.MALFORMED


def narrow(source: str) -> Iterator[int]:
    """Lines of `try` statements that foresee msgspec's own errors, and not the other two."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Try):
            continue
        caught = " ".join(ast.unparse(h.type) for h in node.handlers if h.type is not None)
        if not any(f"msgspec.{name}" in caught for name in ("MsgspecError", "DecodeError")):
            continue
        text = "UnicodeDecodeError" in caught or "ValueError" in caught
        if not (text and "RecursionError" in caught):
            yield node.lineno


def test_who_foresees_errors_of_msgspec_foresees_all() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}, line {line}: catch UNREADABLE"
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        for line in narrow(path.read_text(encoding="utf-8"))
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("source", "good"),
    [
        ("try: f()\nexcept msgspec.MsgspecError: ...", False),
        ("try: f()\nexcept (OSError, msgspec.DecodeError, UnicodeDecodeError): ...", False),
        ("try: f()\nexcept UNREADABLE: ...", True),
        ("try: f()\nexcept (OSError, *UNREADABLE): ...", True),
        (
            "try: f()\nexcept msgspec.DecodeError: ...\nexcept (ValueError, RecursionError): ...",
            True,
        ),
        ("try: f()\nexcept UnicodeDecodeError: ...", True),
        ("try: f()\nexcept json.JSONDecodeError: ...", True),
    ],
)
def test_the_rule_sees_what_breaks_it(source: str, good: bool) -> None:
    assert (not list(narrow(source))) == good


def test_these_are_all_that_it_raises() -> None:
    for payload in (b"", b"\xc1", b"\x01", NO_TEXT, DEEP, b"\xc0\xc0"):
        with pytest.raises(UNREADABLE):
            msgspec.msgpack.decode(payload, type=tuple[str, ...])
