"""What can go wrong with a request for inference, beside what the actor system raises itself
(`supervision.errors`, where the whole tree begins). Pure.

::

    BadRequest 400
    ├── ContextExceeded 400          prompt + max_tokens do not fit the model
    ├── ModelNotFound 404            nobody serves this name
    └── Conflict 409
        ├── IdempotencyConflict 409  the retry token is taken by something else
        │   └── AnswerGone 409       it was answered, and nobody holds the answer any more
        └── ModelConflict 409        a version is in no stage for this, or was changed meanwhile
    Unavailable 503
    ├── ModelUnusable 503            its folder is incomplete, or of a kind that no engine runs
    │   ├── ArtifactRefused 503      unsigned, tampered with, revoked, or of no safe kind
    │   └── CacheFull 503            its weights have no place on this machine's disk
    └── ArtifactLost 503             no replica has it whole, or too few can be reached
    WorkerLost 502                   it began, broke off, and could not be resumed

Pure.
"""

from __future__ import annotations

from supervision.errors import BadRequest, Conflict, TetherError, Unavailable


class ContextExceeded(BadRequest):
    code = "context_length_exceeded"


class ModelNotFound(BadRequest):
    code, status = "model_not_found", 404


class IdempotencyConflict(Conflict):
    code = "idempotency_conflict"


class AnswerGone(IdempotencyConflict):
    code = "answer_gone"


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
