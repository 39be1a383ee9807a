"""The errors that any actor may raise, and the root of all others.

::

    TetherError
    ├── BadRequest 400               the request itself is at fault; never retried
    │   ├── Unauthenticated 401      no key, or an unknown or revoked one
    │   ├── Forbidden 403            whoever asks may not do this
    │   ├── Conflict 409             it is taken, or stands otherwise than was thought
    │   ├── BodyTooLarge 413
    │   └── ProtocolError 400        a message that nobody here understands
    ├── RateLimited 429              retry after `retry_after_s`
    ├── Cancelled 499                the client left
    ├── Internal 500                 a bug of ours
    ├── Unavailable 503              nothing was answered; try again, elsewhere or later
    │   ├── Overloaded 503           a bound was reached
    │   ├── Draining 503             it is on its way out
    │   ├── Hindered 503             a predecessor, or what gives it its socket, is in its way
    │   ├── DiskFull 503             a disk of the node is full; the sentence names the folder
    │   ├── NoAnswer 503             a wait of ours ended; what was asked may be done yet
    │   └── PeerLost 503             the process at the other end is gone
    └── DeadlineExceeded 504         the request's own deadline passed, and no other

What is built on actors derives its own from these. The statuses are HTTP's, as a common language
of who is to blame and whether to try again.

An error crosses the wire with its code, status and whether it may be retried, and is raised again
as the same class at the other end, or as `Unfamiliar` where that class isn't imported.

Pure.
"""

from __future__ import annotations

from copy import copy
from typing import ClassVar, Self

Detail = str | int | float | bool
"""A fact beside an error's sentence, for programs."""


class TetherError(Exception):
    """Base of all. `code` is stable and public; `status` is HTTP's; `retryable` says whether
    the same request may be sent again at once or after `retry_after_s`; `blames_request` that
    the request is at fault, and whoever says so is well. `details` are facts for programs (what is
    left of a limit, what was billed); few and short, since they cross the wire with it."""

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False
    blames_request: ClassVar[bool] = False

    def __init__(
        self, message: str, *, retry_after_s: float | None = None, param: str | None = None
    ) -> None:
        if not message.isascii():  # halves of characters, from a JSON that is quoted, can't be sent
            message = message.encode("utf-8", "replace").decode()
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s
        self.param = param
        self.details: dict[str, Detail] = {}

    def anew(self) -> Self:
        """The same error, as if it had never been raised. Who keeps an error keeps that, and raises
        one: or what keeps it is held by the frames that it went through, and they by it."""
        return copy(self)


class BadRequest(TetherError):
    code, status, blames_request = "invalid_request", 400, True


class Unauthenticated(BadRequest):
    code, status = "invalid_api_key", 401


class Forbidden(BadRequest):
    code, status = "forbidden", 403


class Conflict(BadRequest):
    code, status = "conflict", 409


class BodyTooLarge(BadRequest):
    code, status = "body_too_large", 413


class ProtocolError(BadRequest):
    code = "protocol_error"


class RateLimited(TetherError):
    code, status, retryable = "rate_limit_exceeded", 429, True


class Cancelled(TetherError):
    code, status = "cancelled", 499


class Internal(TetherError):
    pass


class Unavailable(TetherError):
    code, status, retryable = "unavailable", 503, True


class Overloaded(Unavailable):
    code = "overloaded"


class Draining(Unavailable):
    code = "draining"


class Hindered(Unavailable):
    """An actor can't start for a cause that isn't its own and that another try may find gone: a
    predecessor holds what there is one of, or nobody hands over what it needs. No crash, see
    `supervision.external_cause`."""

    code = "hindered"


class DiskFull(Unavailable):
    code = "disk_full"


class NoAnswer(Unavailable):
    """Somebody on the way didn't answer for as long as we waited: it hangs, or has too much to do.
    What it was asked is safe to ask twice; the deadline of the request is another matter."""

    code = "no_answer"


class PeerLost(Unavailable):
    code = "peer_lost"


class DeadlineExceeded(TetherError):
    """Raised by those who keep the deadline of a request, once it has passed. A wait of our own
    that took too long is `NoAnswer`."""

    code, status = "deadline_exceeded", 504


class Unfamiliar(TetherError):
    """An error whose class isn't imported here: an actor of another floor, or another release, has
    raised it, and it means to callers what it says of itself."""

    def __init__(
        self,
        message: str,
        *,
        code: str,
        status: int,
        retryable: bool,
        blames_request: bool,
        retry_after_s: float | None = None,
        param: str | None = None,
    ) -> None:
        super().__init__(message, retry_after_s=retry_after_s, param=param)
        # of this one error, where a class that is known says it for all of its kind
        self.__dict__.update(
            code=code, status=status, retryable=retryable, blames_request=blames_request
        )


def class_of(code: str) -> type[TetherError] | None:
    """The class that bears `code`, as far as it is imported here."""
    pending: list[type[TetherError]] = [TetherError]
    while pending:
        cls = pending.pop()
        if cls.code == code and cls is not TetherError and cls is not Unfamiliar:
            return cls
        pending.extend(cls.__subclasses__())
    return None


def from_code(
    code: str, message: str, retry_after_s: float | None = None, param: str | None = None
) -> TetherError:
    """The error that `code` names; `Internal` for a code that nobody here knows."""
    return (class_of(code) or Internal)(message, retry_after_s=retry_after_s, param=param)
