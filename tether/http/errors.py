"""Errors as HTTP answers, in the shape that OpenAI's clients understand.

`{"error": {"message", "type", "param", "code"}}`, `Retry-After` with 429 and 503, and
`x-should-retry`, which the `openai` package heeds before its own table of statuses.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

from actors.errors import AnswerGone, BudgetExceeded
from supervision.errors import BadRequest, Draining, TetherError, Unauthenticated
from tether.http.limit_headers import limit_headers, state_in

Headers = list[tuple[bytes, bytes]]


class UnknownPath(BadRequest):
    code, status = "unknown_path", 404


class WrongMethod(BadRequest):
    code, status = "method_not_allowed", 405


class BodyTooSlow(BadRequest):
    code, status = "body_too_slow", 408


_TYPES = {
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    429: "rate_limit_error",
    499: "cancelled",
    503: "overloaded_error",
    504: "timeout_error",
}
# by its code: of a quota that is used up OpenAI says 429, as of a rate
_OTHERWISE = {"insufficient_quota": "insufficient_quota"}


def kind(status: int) -> str:
    """The `type` of an error with this status."""
    return _TYPES.get(status) or ("invalid_request_error" if status < 500 else "server_error")


def payload(error: TetherError, message: str | None = None) -> dict[str, Any]:
    """The JSON object that tells `error`, in other words if a `message` is given; of an answer that
    is gone with the receipt of what it was billed."""
    told: dict[str, Any] = {
        "message": error.message if message is None else message,
        "type": _OTHERWISE.get(error.code) or kind(error.status),
        "param": error.param,
        "code": error.code,
    }
    if isinstance(error, AnswerGone) and error.details:
        told["receipt"] = error.details
    return {"error": told}


def body(error: TetherError) -> bytes:
    """`payload` as JSON. Characters that are no text (lone surrogates) are replaced."""
    try:
        return msgspec.json.encode(payload(error))
    except UnicodeEncodeError:
        clean = error.message.encode("utf-8", "replace").decode()
        return msgspec.json.encode(payload(error, clean))


def retry_after(error: TetherError) -> int | None:
    """Whole seconds for `Retry-After`; with 429 and 503 there always are some, unless another try
    is in vain for good."""
    if error.status not in (402, 429, 503):
        return None
    if isinstance(error, BudgetExceeded) and error.retry_after_s is None:
        return None
    return max(1, math.ceil(error.retry_after_s or 1.0))


def answer(error: TetherError) -> tuple[int, Headers, bytes]:
    """Status, headers and body of the HTTP answer for `error`."""
    content = body(error)
    headers: Headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(content)),
        (b"cache-control", b"no-store"),
        (b"x-should-retry", b"true" if error.retryable else b"false"),
    ]
    seconds = retry_after(error)
    if seconds is not None:
        headers.append((b"retry-after", b"%d" % seconds))
    headers += limit_headers(state_in(error))
    if isinstance(error, Unauthenticated):
        headers.append((b"www-authenticate", b"Bearer"))
    if isinstance(error, Draining) or error.status in (408, 413):
        # Draining: let the client dial again, and reach another door. 408 and 413: the rest of
        # the body is still on its way, and the connection cannot be used for anything else.
        headers.append((b"connection", b"close"))
    return error.status, headers, content
