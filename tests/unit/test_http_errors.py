"""That the deadline of a request has passed, only those say who keep it. A wait of our own that
took too long is `NoAnswer`, and its request may be sent again."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path

from actors.errors import BudgetExceeded, QuotaExceeded
from supervision.errors import (
    BadRequest,
    DeadlineExceeded,
    Draining,
    Internal,
    NoAnswer,
    Overloaded,
    RateLimited,
    TetherError,
    Unauthenticated,
    Unfamiliar,
    from_code,
)
from tether.http import errors
from tether.http.errors import answer

ROOT = Path(__file__).parents[2]
PACKAGES = ("tether", "actors", "supervision")
KEEPERS = {
    "actors/gateway/request_session.py",
    "actors/gateway/session_sweep.py",
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


SHOWN = {"supervision.errors", "actors.errors", "tether.http.errors"}


def test_every_error_has_openais_shape() -> None:
    pending: list[type[TetherError]] = [TetherError]
    while pending:
        cls = pending.pop()
        # Those from elsewhere, such as a fault of a replica, are shown as their base.
        pending.extend(sub for sub in cls.__subclasses__() if sub.__module__ in SHOWN)
        if cls is Unfamiliar:
            continue  # as the class that it stands for, see test_runtime_codec
        status, headers, body = errors.answer(cls("what", param="p"))
        assert status == cls.status
        error = json.loads(body)["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        assert (error["message"], error["param"], error["code"]) == ("what", "p", cls.code)
        for_good = issubclass(cls, BudgetExceeded)  # unless it says when its period begins anew
        assert (b"retry-after" in dict(headers)) == (status in (429, 503) and not for_good)
        assert dict(headers)[b"content-length"] == b"%d" % len(body)


def test_error_headers() -> None:
    assert dict(errors.answer(RateLimited("x", retry_after_s=1.2))[1])[b"retry-after"] == b"2"
    assert dict(errors.answer(Overloaded("x", retry_after_s=0.01))[1])[b"retry-after"] == b"1"
    assert dict(errors.answer(Draining("x"))[1])[b"connection"] == b"close"
    assert b"connection" not in dict(errors.answer(Overloaded("x"))[1])
    assert dict(errors.answer(Unauthenticated("x"))[1])[b"www-authenticate"] == b"Bearer"
    assert dict(errors.answer(Internal("x"))[1])[b"x-should-retry"] == b"false"
    assert b"\xef" not in errors.body(BadRequest("bad \ud800 text"))


def test_a_budget_that_is_used_up_is_a_quota_to_clients_and_not_tried_again() -> None:
    for error, status, code in (
        (BudgetExceeded("no room", retry_after_s=90.2), 402, "budget_exceeded"),
        (QuotaExceeded("no room", retry_after_s=90.2), 429, "insufficient_quota"),
    ):
        answered, headers, body = answer(error)
        said = json.loads(body)["error"]
        assert (answered, said["type"], said["code"]) == (status, "insufficient_quota", code)
        assert dict(headers)[b"x-should-retry"] == b"false"
        assert dict(headers)[b"retry-after"] == b"91"
    _, headers, _ = answer(QuotaExceeded("no room, and no period that begins anew"))
    assert b"retry-after" not in dict(headers)
