"""Heads: what they must say, and where their bodies end."""

from __future__ import annotations

import pytest

from supervision.errors import TetherError
from tether.http.head import Head, decoded, read_head

HOST = (b"host", b"t:8080")
CHUNKED = (b"transfer-encoding", b"chunked")


@pytest.mark.parametrize(
    ("method", "version", "target", "fields", "expected"),
    [
        (b"GET", "1.1", b"/a?b=c?d", [HOST], Head(b"/a", b"b=c?d", 0, False, False)),
        (b"GET", "1.0", b"/a", [], Head(b"/a", b"", 0, False, False)),
        (b"GET", "1.1", b"/a", [(b"host", b"")], Head(b"/a", b"", 0, False, False)),
        (b"GET", "1.1", b"/a", [(b"host", b"[::1]:1")], Head(b"/a", b"", 0, False, False)),
        (b"POST", "1.1", b"//a", [HOST, CHUNKED], Head(b"//a", b"", 0, True, False)),
        (
            b"POST",
            "1.1",
            b"/",
            [HOST, (b"content-length", b"7"), (b"expect", b"100-Continue")],
            Head(b"/", b"", 7, False, True),
        ),
        (b"POST", "1.0", b"/", [(b"expect", b"nothing")], Head(b"/", b"", 0, False, False)),
        (b"GET", "1.1", b"http://b", [HOST], Head(b"/", b"", 0, False, False)),
        (b"GET", "1.1", b"HTTP://b?c", [HOST], Head(b"/", b"c", 0, False, False)),
        (b"GET", "1.1", b"https://b:1/c", [HOST], Head(b"/c", b"", 0, False, False)),
        (b"OPTIONS", "1.1", b"*", [HOST], Head(b"*", b"", 0, False, False)),
        (b"OPTIONS", "1.1", b"http://b", [HOST], Head(b"*", b"", 0, False, False)),
    ],
)
def test_read(
    method: bytes, version: str, target: bytes, fields: list[tuple[bytes, bytes]], expected: Head
) -> None:
    assert read_head(method, version, target, fields) == expected


@pytest.mark.parametrize(
    ("status", "method", "version", "target", "fields"),
    [
        (400, b"GET", "1.1", b"/", []),
        (400, b"GET", "1.1", b"/", [HOST, HOST]),
        (400, b"GET", "1.0", b"/", [HOST, HOST]),
        (400, b"GET", "1.1", b"/", [(b"host", b"a/b")]),
        (400, b"GET", "1.1", b"/#a", [HOST]),
        (400, b"GET", "1.1", b"*", [HOST]),
        (400, b"GET", "1.1", b"ftp://a/", [HOST]),
        (400, b"GET", "1.1", b"http://a@b/", [HOST]),
        (400, b"GET", "1.1", b"http://b/#c", [HOST]),
        (400, b"GET", "1.1", b"http://b:99999/", [HOST]),
        (501, b"CONNECT", "1.1", b"a:80", [HOST]),
        (505, b"GET", "0.9", b"/", []),
        (505, b"GET", "2.0", b"/", [HOST]),
        (400, b"POST", "1.0", b"/", [CHUNKED]),
        (400, b"POST", "1.1", b"/", [HOST, CHUNKED, CHUNKED]),
        (400, b"POST", "1.1", b"/", [HOST, (b"transfer-encoding", b"identity, chunked")]),
        (400, b"POST", "1.1", b"/", [HOST, CHUNKED, (b"transfer-encoding", b"gzip")]),
        (501, b"POST", "1.1", b"/", [HOST, (b"transfer-encoding", b"gzip"), CHUNKED]),
        (417, b"POST", "1.1", b"/", [HOST, (b"expect", b"200-ok")]),
    ],
)
def test_refused(
    status: int, method: bytes, version: str, target: bytes, fields: list[tuple[bytes, bytes]]
) -> None:
    with pytest.raises(TetherError) as caught:
        read_head(method, version, target, fields)
    assert caught.value.status == status and caught.value.message


def test_a_path_as_text() -> None:
    assert decoded(b"/v1/models/a%2Fb%20c%25") == "/v1/models/a/b c%"
