"""The end of a request's session: what was used, and what its job is closed with. Pure."""

from __future__ import annotations

from enum import Enum, auto

import msgspec

from actors.contracts import Assignment, JobState, Outcome, Settle, Usage
from actors.core.journal import Journal
from actors.core.outcome_billing import AnswerSoFar, billed, end_of_error
from actors.gateway.idempotency import Past
from supervision.errors import Cancelled, Draining, TetherError


class Settles(Enum):
    """Who closes the job of a session that has ended."""

    WORKER = auto()  # it has answered; the gateway does if it dies before
    WORKER_OR_LATER = auto()  # it was told to stop, unless it never began
    GATEWAY = auto()
    NOBODY = auto()  # whoever has begun it does, or its lease runs out


def outcome_of_error(error: TetherError) -> Outcome:
    """What a request comes to that ends with this error."""
    return Outcome.CANCELLED if isinstance(error, Cancelled) else Outcome.FAILED


def usage_of(journal: Journal, outcome: Outcome) -> Usage:
    """What was used: what the worker has counted, or what has arrived."""
    if outcome is Outcome.COMPLETED:
        return journal.usage
    return Usage(prompt_tokens=len(journal.prompt_ids), completion_tokens=journal.tokens)


def used_of(journal: Journal, outcome: Outcome, past: Past) -> Usage:
    """What of it was computed for this request: nothing of one that is said again, and of one that
    goes on only what comes after the tokens before."""
    if past.replayed and outcome is Outcome.COMPLETED:
        return Usage()
    usage = usage_of(journal, outcome)
    if not past.had:
        return usage
    computed = max(0, usage.completion_tokens - past.had)
    return msgspec.structs.replace(usage, completion_tokens=computed)


def settle_of(
    assignment: Assignment | None,
    journal: Journal,
    outcome: Outcome,
    error: TetherError | None,
) -> Settle | None:
    """How the job ends, as far as its gateway knows; None where it reserved nothing, or somebody
    else goes on with it."""
    if assignment is None or assignment.state is JobState.COMPLETED:
        return None
    if isinstance(error, Draining):
        return None  # the front door takes it up again, through the gateway that follows
    answer = AnswerSoFar(
        counted=usage_of(journal, outcome),
        delivered=journal.tokens,
        begun=bool(journal.prompt_ids),  # they come with the first chunk
        streamed=True,  # of a whole answer nothing is here before all of it is
    )
    usage = billed(end_of_error(error), answer)
    return Settle(
        job_id=assignment.job_id,
        fencing_token=assignment.fencing_token,
        outcome=outcome,
        usage=usage,
        emitted=usage.completion_tokens,
        finish="" if journal.finish is None else journal.finish,
        error_code="" if error is None else error.code,
        delivered=outcome is Outcome.COMPLETED,
    )


def settled_by(
    outcome: Outcome, *, streaming: bool, attached: bool = False, late: bool = False
) -> Settles:
    """`streaming`: a worker's stream was open at the end. `late`: the request's deadline has ended
    it, which its worker knows as well. `attached`: the answer is of a run that
    was there before, whose worker may have settled when nobody listened: in vain, if somebody else
    had moved the job by then, and it doesn't know that the answer was delivered after all. Of such
    a run there is nothing else to say for who has joined it: others may read on."""
    if outcome is Outcome.COMPLETED:
        return Settles.GATEWAY if attached else Settles.WORKER
    if attached:
        return Settles.NOBODY
    if late or (outcome is Outcome.CANCELLED and streaming):
        return Settles.WORKER_OR_LATER
    return Settles.GATEWAY
