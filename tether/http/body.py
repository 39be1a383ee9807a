"""The bytes of a request, bounded."""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import Receive

from supervision.errors import BadRequest, BodyTooLarge, Cancelled


def _no_budget(size: int) -> None:
    """What is read has its bound elsewhere."""


async def read_body(
    receive: Receive,
    headers: dict[bytes, bytes],
    limit: int,
    take: Callable[[int], None] = _no_budget,
) -> bytes:
    """All of the body, whether its length was declared or it comes in chunks. `take` counts the
    bytes before they are read where their number was declared, else as they come; what it raises
    ends the reading.

    What is too large isn't read on: the connection drains what its client still sends.

    Raises:
        BodyTooLarge: more than `limit` bytes were declared or came.
        BadRequest: the body is encoded (gzip …), which nobody asked for.
        Cancelled: the client hung up before the end.
    """
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise BadRequest(
            "the body is encoded by content-encoding; send it as plain JSON",
            param="content-encoding",
        )
    declared = headers.get(b"content-length")
    if declared is not None and int(declared) > limit:
        raise _too_large(limit)
    counted = declared is not None
    if counted:
        take(int(declared or 0))
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Cancelled("the client hung up while it sent the request")
        part: bytes = message.get("body", b"")
        more = message.get("more_body", False)
        size += len(part)
        if size > limit:
            raise _too_large(limit)
        if not counted:
            take(len(part))
        parts.append(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body is larger than {limit} bytes; send a smaller one")
