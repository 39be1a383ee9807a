"""What a reserve, a settle or a renewal must be to go into a round with others: whatever PostgreSQL
would refuse is refused before, since it would fail all of the round."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from asyncpg.pgproto.pgproto import UUID

from actors.contracts import HeldJob, JobKey, Reserve, Settle
from supervision.errors import BadRequest

_INT4: Final = 2**31 - 1
_INT8: Final = 2**63 - 1
_WORD: Final = 128  # characters of a finish, of the code of an error, or of an endpoint
_TOKEN: Final = 512  # characters of a retry token; an entry of the index has at most 2,704 bytes


def check_uuid(text: str, what: str = "job id; make one with job_id()") -> Any:
    """`text` as the UUID that the driver sends.

    Raises:
        BadRequest: it is none.
    """
    try:
        return UUID(text)
    except ValueError:
        raise BadRequest(f"{text[:60]!r} is no {what}") from None


def check(msg: Reserve | Settle) -> Any:
    """The job's UUID.

    Raises:
        BadRequest: a field can't be stored.
    """
    return _check_settle(msg) if isinstance(msg, Settle) else _check_reserve(msg)


def check_held(one: HeldJob) -> Any:
    """The job's UUID.

    Raises:
        BadRequest: a field can't be stored.
    """
    if not (0 <= one.fencing_token <= _INT8 and 0 <= one.emitted <= _INT4):
        raise BadRequest("fencing token and tokens of a job that is held must be numbers from 0")
    return check_uuid(one.job_id)


def _check_settle(msg: Settle) -> Any:
    usage = msg.usage
    tokens = (
        usage.prompt_tokens,
        usage.completion_tokens,
        usage.cached_tokens,
        usage.reasoning_tokens,
        msg.emitted,
    )
    if not (_fit(tokens, _INT4) and 0 <= msg.fencing_token <= _INT8):
        raise BadRequest("a settle's usage and fencing token must be numbers from 0 that fit a row")
    if usage.cached_tokens > usage.prompt_tokens or (
        usage.reasoning_tokens > usage.completion_tokens
    ):
        raise BadRequest(
            "cached tokens of a settle are part of its prompt's, reasoning ones of its completion's"
        )
    for word in (msg.finish, msg.error_code):
        if len(word) > _WORD or "\0" in word:
            raise BadRequest(
                f"finish and error_code of a settle have at most {_WORD} characters, and no NUL"
            )
    return check_uuid(msg.job_id)


def _check_reserve(msg: Reserve) -> Any:
    own = msg.ownership
    tokens = own.claim_token, own.held_claim_token, own.lost_fencing_token
    if not (1 <= own.attempt <= _INT4 and 0 < msg.deadline_s < 1e7):
        raise BadRequest("a reserve needs an attempt from 1 and a deadline above 0 s")
    if not _fit(tokens, _INT8):
        raise BadRequest("a reserve's tokens must be numbers from 0 that fit a row")
    if not _fit((msg.most.prompt_tokens, msg.most.output_tokens), _INT4):
        raise BadRequest("the most that a reserve may use must be numbers from 0 that fit a row")
    return _check_key(msg.job)


def _check_key(job: JobKey) -> Any:
    if len(job.retry_token) > _TOKEN or "\0" in job.retry_token:
        raise BadRequest(
            f"an Idempotency-Key has at most {_TOKEN} characters, and no NUL",
            param="Idempotency-Key",
        )
    if len(job.endpoint) > _WORD or "\0" in job.endpoint:
        raise BadRequest(f"the endpoint of a job has at most {_WORD} characters, and no NUL")
    if job.key_id:
        check_uuid(job.key_id, "id of an API key")
    return check_uuid(job.job_id)


def _fit(numbers: Iterable[int], most: int) -> bool:
    return all(0 <= number <= most for number in numbers)
