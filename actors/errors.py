"""The errors of a request for inference, as one tree with HTTP's statuses.

Those marked · are of inference and defined here; the others, of which any actor may raise some, are
in `supervision.errors`.

::

    TetherError
    ├── BadRequest 400                   the request itself is at fault; never retried
    │   ├── Unauthenticated 401          no key, or an unknown or revoked one
    │   ├── Forbidden 403                the key may not do this
    │   ├── ContextExceeded 400 ·        prompt + max_tokens do not fit the model
    │   ├── ModelNotFound 404 ·          nobody serves this name
    │   ├── KeyReused 422 ·              the retry token is that of another request
    │   ├── Conflict 409                 it is taken, or stands otherwise than was thought
    │   │   ├── IdempotencyConflict 409 ·  the retry token is taken by something else
    │   │   │   └── AnswerGone 409 ·     it was answered, and nobody holds the answer any more
    │   │   └── ModelConflict 409 ·      a version is in no stage for this, or was changed meanwhile
    │   ├── BodyTooLarge 413
    │   └── ProtocolError 400            a message that nobody here understands
    ├── RateLimited 429                  retry after `retry_after_s`
    ├── BudgetExceeded 402 ·             a budget has no room for it until its period begins anew
    │   └── QuotaExceeded 429 ·          the same, where the budget says so
    ├── Cancelled 499                    the client left
    ├── Internal 500                     a bug of ours
    ├── Unavailable 503                  nothing was answered; try again, elsewhere or later
    │   ├── Overloaded, Draining, Hindered, DiskFull, NoAnswer, PeerLost 503
    │   ├── ModelUnusable 503 ·          its folder is incomplete, or of a kind that no engine runs
    │   │   ├── ArtifactRefused 503 ·    unsigned, tampered with, revoked, or of no safe kind
    │   │   └── CacheFull 503 ·          its weights have no place on this machine's disk
    │   └── ArtifactLost 503 ·           no replica has it whole, or too few can be reached
    ├── WorkerLost 502 ·                 it began, broke off, and could not be resumed
    └── DeadlineExceeded 504             the request's own deadline passed, and no other

Pure.
"""

from __future__ import annotations

from supervision.errors import BadRequest, Conflict, TetherError, Unavailable


class ContextExceeded(BadRequest):
    code = "context_length_exceeded"


class ModelNotFound(BadRequest):
    code, status = "model_not_found", 404


class KeyReused(BadRequest):
    """The status is that of draft-ietf-httpapi-idempotency-key-header-07, section 2.7."""

    code, status = "idempotency_key_reused", 422

    @classmethod
    def told(cls) -> KeyReused:
        """As whoever finds it says it."""
        return cls(
            "this Idempotency-Key was used for another request; use a new key for a new request, "
            "or send the same body again",
            param="Idempotency-Key",
        )


class IdempotencyConflict(Conflict):
    code = "idempotency_conflict"


class AnswerGone(IdempotencyConflict):
    code = "answer_gone"


class BudgetExceeded(TetherError):
    """Nothing was done, and the same request would fare no better before the budget's next period,
    if there is one: `retry_after_s` says when. So it is no limit of a rate, and nobody retries."""

    code, status, blames_request = "budget_exceeded", 402, True


class QuotaExceeded(BudgetExceeded):
    """Under the status and the code by which OpenAI's clients know it."""

    code, status = "insufficient_quota", 429


class ModelConflict(Conflict):
    code = "model_conflict"


class ModelUnusable(Unavailable):
    code, retryable, blames_request = "model_unusable", False, True


class ArtifactRefused(ModelUnusable):
    code = "artifact_refused"


class CacheFull(ModelUnusable):
    code = "cache_full"


class ArtifactLost(Unavailable):
    code = "artifact_lost"


class WorkerLost(TetherError):
    code, status, retryable = "worker_lost", 502, True
