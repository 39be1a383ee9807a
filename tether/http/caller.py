"""The caller of a request: who asks, and how, as the headers say."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from supervision.errors import BadRequest, Unauthenticated
from tether.http.options import DoorOptions

MAX_CREDENTIAL = 512
MAX_RETRY_TOKEN = 255


class HttpCaller(NamedTuple):
    """`credential` is the key as sent; `retry_token` the `Idempotency-Key` or empty;
    `deadline_s` the seconds that the answer may take; `join` whether a request that runs under the
    same key may be joined."""

    credential: str
    retry_token: str
    deadline_s: float
    join: bool = True


def read_caller(headers: dict[bytes, bytes], options: DoorOptions) -> HttpCaller:
    """The caller of one inference request.

    Raises:
        Unauthenticated: no key, or none that could be one.
        BadRequest: a malformed Idempotency-Key, x-tether-join or x-request-timeout-s.
    """
    token = headers.get(b"idempotency-key")
    return HttpCaller(
        read_credential(headers),
        "" if token is None else check_retry_token(token.decode("latin-1")),
        _deadline(headers.get(b"x-request-timeout-s"), options),
        _joins(headers),
    )


def read_credential(headers: dict[bytes, bytes]) -> str:
    """The key from `Authorization: Bearer …` or `x-api-key`.

    Raises:
        Unauthenticated: neither is there, or it is no key.
    """
    value = headers.get(b"authorization")
    if value is not None:
        scheme, _, key = value.partition(b" ")
        key = key.strip()
        if scheme.lower() != b"bearer" or not key:
            raise Unauthenticated("the Authorization header must read: Bearer YOUR_KEY")
    else:
        key = headers.get(b"x-api-key", b"").strip()
        if not key:
            raise Unauthenticated(
                "no API key; send the header Authorization: Bearer YOUR_KEY "
                "(tether keys create makes one)"
            )
    if len(key) > MAX_CREDENTIAL or not key.isascii():
        raise Unauthenticated("the API key is not one of ours")
    return key.decode("ascii")


def tenant_of(credential: str) -> str:
    """The tenant of a key `tether-<tenant>-<secret>`, whose secret has 43 characters: the same for
    all keys of a tenant, whatever dashes are in its name or in the secret. Chooses a gateway
    partition and proves nothing; a key of another form is none of ours, and is its own tenant
    here."""
    if credential.startswith("tether-") and credential[-44:-43] == "-":
        return credential[7:-44] or credential
    return credential


def check_retry_token(token: str, param: str = "Idempotency-Key") -> str:
    """`token` if it is printable ASCII of 1 to 255 characters.

    Raises:
        BadRequest: it is not; nothing is cut off in silence.
    """
    if not token:
        raise BadRequest(
            f"{param} is empty; send 1 to {MAX_RETRY_TOKEN} characters, or leave it out",
            param=param,
        )
    if len(token) > MAX_RETRY_TOKEN:
        raise BadRequest(
            f"{param} has {len(token)} characters; at most {MAX_RETRY_TOKEN} are taken",
            param=param,
        )
    if not token.isascii() or not token.isprintable():
        raise BadRequest(f"{param} may hold printable ASCII characters only", param=param)
    return token


def check_once(headers: Iterable[tuple[bytes, bytes]]) -> None:
    """
    Raises:
        BadRequest: there are two Idempotency-Keys, and either may be meant.
    """
    if sum(name == b"idempotency-key" for name, _ in headers) > 1:
        raise BadRequest(
            "the request has more than one Idempotency-Key; send one", param="Idempotency-Key"
        )


def _joins(headers: dict[bytes, bytes]) -> bool:
    """Not with `x-tether-join: never`, nor with `Prefer: respond-async` (RFC 7240, section 4.1):
    who says either doesn't want to wait for what runs."""
    said = headers.get(b"x-tether-join")
    if said is not None:
        if said.lower() not in (b"never", b"always"):
            raise BadRequest("x-tether-join may say never or always", param="x-tether-join")
        return said.lower() == b"always"
    prefer = headers.get(b"prefer")
    if prefer is None:
        return True
    wishes = (wish.partition(b";")[0].strip().lower() for wish in prefer.split(b","))
    return b"respond-async" not in wishes


def _deadline(value: bytes | None, options: DoorOptions) -> float:
    if value is None:
        return options.default_deadline_s
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not (seconds > 0 and math.isfinite(seconds)):
        raise BadRequest(
            "x-request-timeout-s must be a number of seconds above 0, such as 30",
            param="x-request-timeout-s",
        )
    return min(seconds, options.max_deadline_s)
