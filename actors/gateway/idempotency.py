"""What becomes of a request whose idempotency key was sent before: the decisions of the table in
docs/requests.md, as far as a gateway takes them. Pure."""

from __future__ import annotations

from typing import Final

from actors.contracts import Assignment, Billed, Infer, JobState, Outcome
from actors.errors import AnswerGone
from actors.gateway.session import SessionKey
from supervision.errors import Conflict, Detail, Draining, TetherError

RUNS: Final = (
    "a request with this Idempotency-Key runs; without x-tether-join: never and Prefer: "
    "respond-async the same request joins it, or send it again later for the answer"
)
GONE: Final = (
    "this request was answered, and the answer is kept nowhere any more; what it was billed stands "
    "in the receipt. Send it with a new idempotency key for a new answer, and a new bill"
)


class Past:
    """What a request finds of its key's job: `had` tokens that it took over from one that ended
    badly; whether it is `replayed`, for the answer was complete before it asked, and `fetched` from
    the store; and else what that was `billed`."""

    __slots__ = ("billed", "fetched", "had", "replayed")

    def __init__(self) -> None:
        self.had = 0
        self.replayed = False
        self.fetched = False
        self.billed: Billed | None = None

    def led(
        self, infer: Infer, job_id: str, before: Assignment | None, assignment: Assignment
    ) -> None:
        """It has asked for the job `job_id` and is told where its key's job is; `before` that it
        was told another place, if at all.

        Raises:
            Conflict: another request runs there, and who asks doesn't want to wait for it.
        """
        if before is not None or infer.is_resume:
            return
        self.replayed = assignment.state is JobState.COMPLETED
        if assignment.state is JobState.RUNNING and assignment.job_id != job_id and not infer.join:
            raise Conflict(RUNS, param="Idempotency-Key")

    def unplaced(self, assignment: Assignment | None) -> bool:
        """Does it have something to say before anybody has taken it on? That waits: a request which
        is refused gets its true status."""
        return self.had > 0 and assignment is None


def key_of(infer: Infer, tenant_id: str) -> SessionKey:
    """A tenant's key at one endpoint is one request."""
    return SessionKey(tenant_id, infer.endpoint, infer.retry_token)


def joined(infer: Infer, outcome: Outcome | None) -> bool:
    """Is it read from the session that is held of its key, which has this outcome? Else it begins
    anew.

    Raises:
        Conflict: the session runs, and who asks doesn't want to wait for it.
    """
    if outcome is not None:
        return outcome is Outcome.COMPLETED
    if not infer.join and not infer.is_resume:
        raise Conflict(RUNS, param="Idempotency-Key")
    return True


def goes_on(explicit: bool, tokens: int, error: TetherError | None) -> bool:
    """May who sends the key again go on from the journal of a request that ended with `error`? Not
    where the request is at fault, nor where another gateway has taken it over."""
    if not explicit or not tokens or error is None:
        return False
    return not error.blames_request and not isinstance(error, Draining)


def answer_gone(billed: Billed | None) -> AnswerGone:
    """The answer is lost to who sends the key again; the receipt tells what it was billed."""
    error = AnswerGone(GONE, param="Idempotency-Key")
    if billed is not None:
        error.details = receipt(billed)
    return error


def receipt(billed: Billed) -> dict[str, Detail]:
    """The facts of a bill."""
    return {name: getattr(billed, name) for name in billed.__struct_fields__}
