"""The placement of a request's session: its attempts, one worker after the other, under the tokens
that say whose the job is. Decides; whoever holds it talks to scheduler and workers. Times are its
caller's."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from actors.contracts import (
    Assignment,
    Attach,
    Infer,
    JobKey,
    JobState,
    Maximum,
    Ownership,
    Place,
    Run,
    Sampling,
    Slo,
)
from actors.core.journal import Journal
from actors.errors import AnswerGone, WorkerLost
from actors.gateway.attempts import verdict
from actors.gateway.request_messages import attach, place, run
from supervision.errors import DeadlineExceeded, NoAnswer, PeerLost, TetherError, Unavailable
from supervision.policies import (
    COMPLETED,
    NEVER,
    Again,
    AttemptOutcome,
    Call,
    Done,
    Ended,
    GiveUp,
    Go,
    outcome_of,
)

UNKNOWN = Maximum()
EARLY_S = 0.5  # before the deadline: no clock is that far off in one request


class Broken(NamedTuple):
    """How an attempt ended that didn't bring the answer. `lost`: its worker is gone, or has
    forgotten it. `ok` and `neutral` are for the worker, see `Finished`; `avoid` is its address, if
    the next attempt is to go elsewhere."""

    error: TetherError
    lost: bool
    ok: bool
    neutral: bool
    avoid: str


class SessionPlacement:
    """The attempts of one request. `call` says whether another one follows one that went wrong;
    an attempt begins with a `Place`, and is over when the worker's stream has ended."""

    __slots__ = (
        "_asked_at",
        "_asked_from",
        "_avoid",
        "_call",
        "_claim_token",
        "_expired",
        "_first_within_s",
        "_infer",
        "_lost_fencing_token",
        "_number",
        "again_at",
        "assignment",
        "deadline",
        "job",
        "silent_until",
    )

    def __init__(self, infer: Infer, job: JobKey, call: Call, now: float) -> None:
        self._infer = infer
        self._call = call
        self._number = 1  # of the attempt, as reservation counts them
        self._avoid: tuple[str, ...] = ()
        self._claim_token = 0
        """The last one drawn, or told; see `Ownership`."""
        self._lost_fencing_token = 0
        self._asked_at = now
        self._first_within_s = NEVER
        self._expired = False
        self.job = job
        self.assignment: Assignment | None = None
        self.deadline = NEVER
        self.again_at = now
        """When the next attempt may begin."""
        self.silent_until = NEVER
        """By when its worker, which was asked, has to have said something."""
        self._asked_from = 0

    # ---- an attempt begins

    @property
    def begun(self) -> bool:
        """Is an attempt under way?"""
        return self._call.running

    def admit(self, now: float) -> bool:
        """An attempt wants to begin; whether it may now. If not, it is to wait until `again_at`.

        Raises:
            TetherError: what a policy says.
        """
        call = self._call
        admitted = call.admit(now)
        if type(admitted) is Go:
            self.deadline = until = call.lasting_until
            self._first_within_s = admitted.until - now if admitted.until < until else NEVER
            return True
        if type(admitted) is Again:
            self.again_at = admitted.at
            return False
        assert type(admitted) is GiveUp
        raise admitted.error

    def place(
        self,
        sampling: Sampling,
        slo: Slo,
        now: float,
        claim_token: int,
        most: Maximum = UNKNOWN,
    ) -> Place:
        """What to ask the scheduler. `claim_token` was drawn for this."""
        held, self._claim_token = self._claim_token, claim_token
        ownership = Ownership(
            attempt=self._number,
            claim_token=claim_token,
            held_claim_token=held,
            lost_fencing_token=self._lost_fencing_token,
        )
        return place(
            self._infer,
            self.job,
            ownership,
            avoid=self._avoid,
            sampling=sampling,
            deadline_s=self.deadline - now,
            slo=slo,
            most=most,
        )

    def unheard(self) -> None:
        """Nobody has waited for the scheduler's answer, and what was placed is undone. If another
        reader places the job again, then under a token that this can't undo."""
        self._number += 1

    def unanswered(self, error: TetherError, now: float) -> TetherError | None:
        """Nobody said where it shall run: somebody hangs. None: ask again, else what the request
        fails with. If it was reserved all the same, our next claim finds that; and who hangs for
        long is restarted, so there is sense in asking until the deadline."""
        if now >= self.deadline:
            return DeadlineExceeded(f"no worker before the deadline: {error.message}")
        silent = NoAnswer(error.message, retry_after_s=1.0)
        said = self._call.settle(AttemptOutcome(Ended.REFUSED, silent), now)
        return None if self._goes_on(said) else silent

    def early(self, error: TetherError, now: float) -> bool:
        """It ended at a deadline that isn't ours: somebody asked for the same before us, and had
        less time. Its job is over, and can begin anew."""
        return isinstance(error, DeadlineExceeded) and self.deadline - now > EARLY_S

    def prolong(self, deadline: float) -> None:
        """Somebody has joined it who waits until then."""
        self._call.prolong(deadline)
        if self._call.running:
            self.deadline = self._call.lasting_until

    def assigned(self, assignment: Assignment, now: float) -> bool:
        """The scheduler has answered: go to the worker? If not, ask again.

        Raises:
            TetherError: others are faster again and again.
        """
        before, self.assignment = self.assignment, assignment
        if assignment.job_id != self.job.job_id:
            self.job = msgspec.structs.replace(self.job, job_id=assignment.job_id)
        self._claim_token = assignment.claim_token
        if (
            assignment.state is not JobState.RUNNING
            or before is None
            or before.fencing_token != assignment.fencing_token
        ):
            return True
        # Somebody else was led to the very run that we left, so our claim is old: ask again
        # under the one that we were told.
        outpaced = WorkerLost("others take this job again and again; send it anew")
        if not self._goes_on(self._call.settle(AttemptOutcome(Ended.REFUSED, outpaced), now)):
            raise outpaced
        return False

    def order(
        self, assignment: Assignment, journal: Journal, sampling: Sampling, now: float
    ) -> Run | Attach:
        """What to tell the worker."""
        self._asked_at = now
        self.silent_until = now + self._first_within_s
        self._asked_from = journal.tokens
        if assignment.state is not JobState.NEW:
            return attach(self._infer, assignment, journal)
        return run(
            self._infer,
            self.job,
            assignment.fencing_token,
            journal,
            sampling=sampling,
            deadline_s=self.deadline - now,
        )

    # ---- and ends

    def expires(self, journal: Journal, now: float) -> bool:
        """Has its worker said nothing for too long? Then its stream is to be closed for that. Once
        an attempt; to be asked now and then."""
        if now <= self.silent_until:
            return False
        self.silent_until = NEVER
        self._expired = journal.tokens == self._asked_from
        return self._expired

    def broken(
        self, error: TetherError, now: float, *, lost: bool, began: bool, cold: bool
    ) -> Broken | None:
        """The worker's stream ended badly. `lost`: without a word. None where the answer is gone,
        and isn't to be said again.

        Args:
            began: something of an answer has come, in whichever attempt.
            cold: the worker doesn't answer for the model yet.
        """
        assignment = self.assignment
        assert assignment is not None
        self.silent_until = NEVER
        expired, self._expired = self._expired, False
        gone = isinstance(error, AnswerGone) or self.early(error, now)
        avoid = "" if isinstance(error, AnswerGone) else assignment.worker_address
        if assignment.state is JobState.COMPLETED:
            if not self._infer.is_resume and self._number == 1:
                return None
            # The client that it was for still waits for its end: it can be said once more.
            self._lost_fencing_token, gone = assignment.fencing_token, True
        if gone:
            # Its worker never began, or has forgotten it: it can begin anew. Or somebody else has
            # moved it, and the scheduler tells where it runs.
            forgotten = WorkerLost("the worker doesn't hold the answer")
            return Broken(forgotten, lost=True, ok=True, neutral=True, avoid=avoid)
        if expired:
            silent = Unavailable("the worker said nothing in the time that an attempt has")
            return Broken(silent, lost=False, ok=cold, neutral=cold, avoid=avoid)
        ok, neutral = self.verdict(error, now, began=began, cold=cold)
        return Broken(error, lost, ok, neutral, avoid)

    def goes_on(self, broken: Broken, now: float) -> TetherError | None:
        """None: there is another attempt. Else what the request fails with."""
        error = broken.error
        said = self._call.settle(outcome_of(error, now, lost=broken.lost), now)
        if self._goes_on(said, broken.avoid):
            return None
        if type(said) is GiveUp and isinstance(said.error, TetherError):
            error = said.error
        if isinstance(error, PeerLost):
            error = WorkerLost("the worker was lost, and no other could continue the answer")
        return error

    def _goes_on(self, said: Done | Again | GiveUp, avoid: str = "") -> bool:
        if type(said) is not Again:
            return False
        self.again_at = said.at
        self._number += 1
        if avoid and avoid not in self._avoid:
            self._avoid = (*self._avoid, avoid)
        return True

    def retarget(self, model_ref: str) -> None:
        """From the next attempt on it is a job of this version."""
        self.job = msgspec.structs.replace(self.job, model_ref=model_ref)

    def close(self, now: float, *, completed: bool) -> None:
        """The request has its outcome: its policies let it go."""
        self.silent_until = NEVER
        if completed:
            self._call.settle(COMPLETED, now)
        else:
            self._call.cancel(now)

    def verdict(
        self, error: TetherError | None, now: float, *, began: bool, cold: bool
    ) -> tuple[bool, bool]:
        """What the end of this attempt says about its worker; see `Finished`."""
        return verdict(error, waited_s=now - self._asked_at, began=began, cold=cold)
