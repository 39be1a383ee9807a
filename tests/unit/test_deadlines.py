"""That the deadline of a request has passed, only those say who keep it. A wait of our own that
took too long is `NoAnswer`, and its request may be sent again."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from supervision.errors import DeadlineExceeded, NoAnswer, from_code
from tether.http.errors import answer

ROOT = Path(__file__).parents[2]
PACKAGES = ("tether", "actors", "supervision")
KEEPERS = {
    "actors/gateway/request_session.py",
    "actors/gateway/gateway.py",
    "actors/gateway/request_admission.py",
    "actors/gateway/session_placement.py",
    "actors/scheduler/scheduler.py",  # of who waits for a worker
    "actors/worker/run.py",
    "supervision/policies/deadline.py",  # of a call, as its caller has set it
    "tether/http/cancellation.py",
}


def makers() -> Iterator[str]:
    """The modules that make a `DeadlineExceeded`."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Call) and "DeadlineExceeded" in ast.unparse(node.func):
                    yield str(path.relative_to(ROOT))


def test_who_keeps_a_deadline() -> None:
    assert set(makers()) == KEEPERS


def test_what_a_client_is_told_of_either() -> None:
    status, headers, body = answer(NoAnswer("n/r/1 did not answer within 10 s"))
    said = dict(headers)
    assert (status, said[b"x-should-retry"], said[b"retry-after"]) == (503, b"true", b"1")
    assert b'"code":"no_answer"' in body
    status, headers, _ = answer(DeadlineExceeded("no complete answer before the deadline"))
    assert (status, dict(headers)[b"x-should-retry"]) == (504, b"false")
    assert isinstance(from_code("no_answer", "m"), NoAnswer)
