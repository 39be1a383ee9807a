"""Ids of requests and traces."""

from __future__ import annotations

from tether.http.identity import clean_request_id, continue_trace, new_id, new_traceparent


def test_ids_are_ordered_in_time_and_differ() -> None:
    early, late = new_id(lambda: 1.0), new_id(lambda: 1.5)
    assert len(early) == 32 and early < late
    assert len({new_id() for _ in range(1000)}) == 1000


def test_request_ids_are_plain() -> None:
    assert clean_request_id(b"req-1_a.b:c/d") == "req-1_a.b:c/d"
    for bad in (b"", b"a b", b"x" * 129, b"a\r\nset-cookie: b", "é".encode()):
        assert clean_request_id(bad) is None


def test_traceparent_continues_a_valid_one() -> None:
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    ours = continue_trace(f"00-{trace}-{parent}-01".encode())
    assert ours is not None
    version, same, span, flags = ours.split("-")
    assert (version, same, flags) == ("00", trace, "01") and span != parent and len(span) == 16
    assert continue_trace(f"cc-{trace}-{parent}-01-later".encode()) is not None
    for bad in (
        f"ff-{trace}-{parent}-01",
        f"00-{trace}-{parent}-01-more",
        f"00-{'0' * 32}-{parent}-01",
        f"00-{trace}-{'0' * 16}-01",
        f"00-{trace.upper()}-{parent}-01",
        "nonsense",
    ):
        assert continue_trace(bad.encode()) is None
    assert continue_trace(new_traceparent("1" * 32).encode()) is not None
