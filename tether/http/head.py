"""The head of a request: what it must say, and where its body ends (RFC 9112, sections 3, 6, 9.3).

llhttp has refused by then what isn't HTTP at all: bare CR and LF, folded lines, other characters,
two lengths, a length beside a coding. Here stands what it lets pass. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import unquote

import httptools

from supervision.errors import BadRequest

MAX_HEAD_BYTES = 32 << 10  # also of chunk extensions and trailers, with which no body comes
_HOST = re.compile(rb"[A-Za-z0-9\-._~!$&'()*+,;=%\[\]:]*")
_TOLD = frozenset((b"content-length", b"expect", b"host", b"transfer-encoding"))


class HeadTooLarge(BadRequest):
    code, status = "head_too_large", 431


class ExpectationFailed(BadRequest):
    code, status = "expectation_failed", 417


class NotImplementedHere(BadRequest):
    code, status = "not_implemented", 501


class VersionNotSupported(BadRequest):
    code, status = "version_not_supported", 505


class Head(NamedTuple):
    """What the door goes by. `path` and `query` are as sent, `length` is the body's or 0, and
    `expects` whether the client waits for `100 Continue` before it sends that."""

    path: bytes
    query: bytes
    length: int
    chunked: bool
    expects: bool


def read_head(
    method: bytes, version: str, target: bytes, fields: Iterable[tuple[bytes, bytes]]
) -> Head:
    """The head whose lower-case `fields` these are. `Upgrade` is left unread, as RFC 9110, 7.8
    allows: the request is one of HTTP/1.1 like any other.

    Raises:
        BadRequest: no or two or a malformed `Host`, a target that isn't one, a body whose end
            is open to interpretation.
        ExpectationFailed: something else than `100-continue` is expected.
        NotImplementedHere: CONNECT, or a transfer coding besides `chunked`.
        VersionNotSupported: neither HTTP/1.1 nor HTTP/1.0.
    """
    modern = version == "1.1"
    if not modern and version != "1.0":
        raise VersionNotSupported(f"HTTP/{version} isn't spoken here; use HTTP/1.1")
    hosts = 0
    codings: bytes | None = None
    expects = False
    length = 0
    for name, value in fields:
        if name not in _TOLD:
            continue
        if name == b"host":
            hosts += 1
            if _HOST.fullmatch(value) is None:
                raise BadRequest("the header Host is malformed", param="host")
        elif name == b"content-length":
            length = int(value)
        elif name == b"transfer-encoding":
            codings = value if codings is None else codings + b"," + value
        elif modern:  # of HTTP/1.0 it must be ignored (RFC 9110, 10.1.1)
            if value.lower() != b"100-continue":
                raise ExpectationFailed("Expect may say 100-continue only", param="expect")
            expects = True
    if hosts > 1 or (modern and not hosts):
        raise BadRequest(f"the request has {hosts or 'no'} Host; one is needed", param="host")
    if codings is not None:
        _check_codings(codings, modern)
    if target.startswith(b"/"):
        if b"#" in target:
            raise BadRequest("the target of a request has no fragment")
        path, _, query = target.partition(b"?")
    else:
        path, query = _other_form(method, target)
    return Head(path, query, length, codings is not None, expects)


def decoded(path: bytes) -> str:
    """`path` as text, for routing."""
    text = path.decode("ascii")
    return unquote(text) if "%" in text else text


def _check_codings(value: bytes, modern: bool) -> None:
    codings = [coding.strip().lower() for coding in value.split(b",")]
    if not modern:  # its framing is faulty, whatever it says (RFC 9112, 6.1)
        raise BadRequest("HTTP/1.0 has no Transfer-Encoding", param="transfer-encoding")
    if codings == [b"chunked"]:
        return
    if codings[-1] != b"chunked" or codings.count(b"chunked") > 1 or b"identity" in codings:
        raise BadRequest(
            "Transfer-Encoding doesn't end in one chunked, so nobody knows where the body does",
            param="transfer-encoding",
        )
    raise NotImplementedHere(
        "the body has a transfer coding besides chunked; send it plainly", param="transfer-encoding"
    )


def _other_form(method: bytes, target: bytes) -> tuple[bytes, bytes]:
    """Path and query of a target that doesn't begin with a slash (RFC 9112, 3.2)."""
    if method == b"CONNECT":
        raise NotImplementedHere("this is no proxy; CONNECT isn't done here")
    if target == b"*":
        if method != b"OPTIONS":
            raise BadRequest("the target * is for OPTIONS alone")
        return target, b""
    try:
        url = httptools.parse_url(target)
    except httptools.HttpParserInvalidURLError:
        raise BadRequest("the target of the request is malformed") from None
    if url.schema.lower() not in (b"http", b"https") or url.userinfo or url.fragment is not None:
        raise BadRequest("the target of a request is a path, or an http URL with nothing but one")
    if url.path is None and method == b"OPTIONS" and url.query is None:
        return b"*", b""  # as a proxy would have sent it on
    return url.path or b"/", url.query or b""
