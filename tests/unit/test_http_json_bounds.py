"""What is counted in a body before it is decoded."""

from __future__ import annotations

import contextlib
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervision.errors import BadRequest
from tether.http import json_bounds

LARGEST = json_bounds.MAX_BYTES
SPACE = b" " * json_bounds.SMALL  # what is small isn't looked at


def values(found: Any) -> int:
    """As they are counted: brackets, and the commas between values."""
    inner = found.values() if isinstance(found, dict) else found if isinstance(found, list) else ()
    own = 1 + max(0, len(found) - 1) if isinstance(found, dict | list) else 0
    return own + sum(map(values, inner))


def depth(found: Any) -> int:
    inner = found.values() if isinstance(found, dict) else found if isinstance(found, list) else ()
    return (isinstance(found, dict | list)) + max(map(depth, inner), default=0)


TEXTS = st.text(alphabet='a\\"[]{},:ä\n')
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.integers() | TEXTS,
    lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner),
)


@given(JSON)
def test_bounds_are_those_of_what_is_decoded(found: Any) -> None:
    body = SPACE + json.dumps(found, ensure_ascii=False).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_bounds, "MAX_DEPTH", depth(found))
        patch.setattr(json_bounds, "MAX_VALUES", values(found))
        json_bounds.check(body)
        if depth(found):
            patch.setattr(json_bounds, "MAX_DEPTH", depth(found) - 1)
            with pytest.raises(BadRequest, match="deep"):
                json_bounds.check(body)
        if values(found):
            patch.setattr(json_bounds, "MAX_VALUES", values(found) - 1)
            with pytest.raises(BadRequest, match="many"):
                json_bounds.check(body)


@given(st.binary())
def test_what_is_no_json_passes_or_is_refused(junk: bytes) -> None:
    for body in (SPACE + junk, junk * 4000):
        try:
            json_bounds.check(body)
        except BadRequest:
            continue


def test_text_is_no_structure() -> None:
    json_bounds.check(json.dumps({"content": '[{"a": [1, 2, 3]}], \\" ' * 50_000}).encode())
    json_bounds.check(json.dumps({"content": "[" * 100_000}).encode())


@pytest.mark.parametrize(
    "shape",
    [b"[", b"[],", b"{},", b'"",', b"1,", b'{"a":', b'\\"', b"\\\\", b'a\\",[', b"a", b'"', b",]"],
)
def test_the_largest_body_is_looked_at_in_no_time(shape: bytes) -> None:
    body = b'{"messages":"' + shape * (LARGEST // len(shape))
    for text in (body, body[1:], body[13:]):
        before = time.thread_time()
        with contextlib.suppress(BadRequest):
            json_bounds.check(text)
        assert time.thread_time() - before < 0.1  # 20 ms where nobody else works
