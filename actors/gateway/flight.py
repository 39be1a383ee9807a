"""One request on its way: placed, running on a worker, moved to another one when that is lost.

A flight has no task of its own. Whoever reads from it moves it on, one event at a time; the
others wait for what that one brings. So a request costs one task, that of its stream, and a
reader that leaves at any point leaves a flight which the next reader can take further.
"""

from __future__ import annotations

import asyncio
import random

import msgspec

from actors.gateway.ground import Chunks, Ground
from actors.gateway.orders import attach, place, run
from supervision.policies import (
    COMPLETED,
    NEVER,
    Again,
    Call,
    Done,
    Ended,
    GiveUp,
    Go,
    outcome_of,
)
from supervision.policies import (
    Outcome as AttemptOutcome,
)
from tether.contracts import (
    Assignment,
    Attach,
    Chunk,
    Completed,
    Contract,
    Infer,
    JobKey,
    JobState,
    ModelCard,
    Outcome,
    Ownership,
    Run,
    Sampling,
    Settle,
    Usage,
)
from tether.core.attempts import verdict
from tether.core.ids import job_id
from tether.core.session import Session
from tether.errors import (
    AnswerGone,
    Cancelled,
    DeadlineExceeded,
    Draining,
    ModelNotFound,
    PeerLost,
    TetherError,
    Unavailable,
    WorkerLost,
)

GONE = (
    "this request was answered, and the worker that kept the answer is gone; send it with a new "
    "idempotency key"
)
PLACE_MARGIN_S = 0.5  # the scheduler knows the deadline too, and its error says more than ours


class Flight(Session):
    """A session that runs. `call` says whether another attempt follows one that went wrong; an
    attempt is over when the worker's stream has ended. The worker settles its job if it completes
    or is cancelled there, the gateway if it fails or ends before a worker has it."""

    __slots__ = (
        "_again_at",
        "_asked_at",
        "_assignment",
        "_attached",
        "_avoid",
        "_call",
        "_claim_token",
        "_expired",
        "_first_within_s",
        "_ground",
        "_lost_fencing_token",
        "_moving",
        "_number",
        "_stream",
        "_waiters",
        "card",
        "charged",
        "deadline",
        "error",
        "first_at",
        "infer",
        "job",
        "left_at",
        "listeners",
        "outcome",
        "sampling",
        "silent_until",
        "since",
    )

    def __init__(
        self,
        ground: Ground,
        infer: Infer,
        *,
        tenant_id: str,
        card: ModelCard,
        sampling: Sampling,
        now: float,
        call: Call,
    ) -> None:
        super().__init__((tenant_id, infer.retry_token), infer.fingerprint, infer.explicit_token)
        self.infer = infer
        self.card = card
        self.sampling = sampling
        self.job = JobKey(
            job_id=job_id(),
            tenant_id=tenant_id,
            retry_token=infer.retry_token,
            fingerprint=infer.fingerprint,
            model_ref=card.ref,
        )
        self.since = now
        self.deadline = NEVER
        self.charged = 0
        self.listeners = 0
        self.left_at: float | None = None
        """Since when nobody listens, while the flight is kept for them to come back."""
        self.first_at: float | None = None
        self.error: TetherError | None = None
        self.outcome: Outcome | None = None
        self._ground = ground
        self._call = call
        self._number = 1  # of the attempt, as reservation counts them
        self._avoid: tuple[str, ...] = ()
        self._again_at = now
        self._first_within_s = NEVER
        self.silent_until = NEVER
        """When to `expire` it, whose worker has been asked and hasn't said anything yet."""
        self._expired = False
        self._claim_token = 0
        """The last one drawn, or told; see `Ownership`."""
        self._lost_fencing_token = 0
        self._asked_at = now
        self._assignment: Assignment | None = None
        self._attached = False
        self._stream: Chunks | None = None
        self._moving = False
        self._waiters: list[asyncio.Future[None]] = []

    def admit(self, now: float) -> bool:
        """An attempt wants to begin; whether it may now. If not, it is to wait.

        Raises:
            TetherError: what a policy says.
        """
        call = self._call
        verdict = call.admit(now)
        if type(verdict) is Go:
            self.deadline = until = call.lasting_until
            self._first_within_s = verdict.until - now if verdict.until < until else NEVER
            return True
        if type(verdict) is Again:
            self._again_at = verdict.at
            return False
        assert type(verdict) is GiveUp
        raise verdict.error

    # ---- reading

    async def more(self) -> None:
        """Returns when something may have changed: more to read, the end, or a fault."""
        if self._moving:
            waiter: asyncio.Future[None] = self._ground.loop.create_future()
            self._waiters.append(waiter)
            await waiter
            return
        self._moving = True
        try:
            await self._step()
        finally:
            self._moving = False
            if self._waiters:
                self._wake()

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    # ---- moving on

    async def _step(self) -> None:
        stream = self._stream
        if stream is None:
            if self._call.running or await self._may_begin():
                await self._place()
            return
        try:
            item = await stream.__anext__()
            if self.outcome is not None:
                return  # it was ended while we waited
            self._take(item)
        except StopAsyncIteration:
            ended = WorkerLost("the worker ended a stream before the answer was complete")
            self._broke(ended, lost=True)
        except TetherError as error:
            self._broke(error)

    async def _may_begin(self) -> bool:
        now = self._ground.loop.time()
        if now < self._again_at:
            await asyncio.sleep(self._again_at - now)
            now = self._ground.loop.time()
        if self.outcome is not None:
            return False
        try:
            return self.admit(now)
        except TetherError as error:
            self.fail(error)
            return False

    async def _place(self) -> None:
        ground = self._ground
        now = ground.loop.time()
        remaining = self.deadline - now
        if remaining <= 0:
            self.fail(DeadlineExceeded("the request's deadline passed before it found a worker"))
            return
        held, self._claim_token = self._claim_token, random.getrandbits(62) + 1
        ownership = Ownership(
            attempt=self._number,
            claim_token=self._claim_token,
            held_claim_token=held,
            lost_fencing_token=self._lost_fencing_token,
        )
        ask = place(
            self.infer,
            self.job,
            ownership,
            avoid=self._avoid,
            sampling=self.sampling,
            deadline_s=remaining,
            slo=self.card.policy.slo,
        )
        try:
            placed = await ground.place(ask, timeout=remaining + PLACE_MARGIN_S)
        except asyncio.CancelledError:
            # The answer may be on its way already; whatever was placed shall be undone. If
            # another reader places the job again, then under a token that this can't undo.
            ground.released(self.job_id, "", ok=True)
            self._number += 1
            raise
        except PeerLost:
            self.fail(Draining("the scheduler is gone, and this gateway restarts after it"))
            return
        except TetherError as error:
            if not self._another_version(error):
                self.fail(error)
            return
        assignment = placed.assignment
        if self.outcome is not None:
            ground.released(assignment.job_id, "", ok=True)
            return
        before, self._assignment = self._assignment, assignment
        if assignment.job_id != self.job_id:
            self.job = msgspec.structs.replace(self.job, job_id=assignment.job_id)
        self._claim_token = assignment.claim_token
        if (
            assignment.state is JobState.RUNNING
            and before is not None
            and before.fencing_token == assignment.fencing_token
        ):
            # Somebody else was led to the very run that we left, so our claim is old: ask again
            # under the one that we were told.
            outpaced = WorkerLost("others take this job again and again; send it anew")
            verdict = self._call.settle(
                AttemptOutcome(Ended.REFUSED, outpaced), now=ground.loop.time()
            )
            if not self._goes_on(verdict):
                self.fail(outpaced)
            return
        self._open(assignment)

    def _open(self, assignment: Assignment) -> None:
        """Go to the worker."""
        ground = self._ground
        now = ground.loop.time()
        self._attached = assignment.state is not JobState.NEW
        ask: Run | Attach
        if self._attached:
            ask = attach(self.infer, assignment, self.journal)
        else:
            ask = run(
                self.infer,
                self.job,
                assignment.fencing_token,
                self.journal,
                sampling=self.sampling,
                deadline_s=self.deadline - now,
            )
        self._asked_at = now
        self.silent_until = now + self._first_within_s
        try:
            self._stream = ground.stream(assignment.worker_address, ask)
        except TetherError as error:
            self._broke(error)
            return
        ground.placed(assignment.worker_address)

    def _take(self, item: Contract) -> None:
        journal = self.journal
        if not isinstance(item, Chunk | Completed):
            raise WorkerLost(f"the worker sent {type(item).__name__} in place of a chunk")
        if item.prompt_ids and not journal.prompt_ids:
            journal.prompt_ids = item.prompt_ids
        journal.add(item.token_ids, item.text, item.seq)
        self.silent_until = NEVER
        if self.first_at is None:
            self.first_at = self._ground.loop.time()
        if isinstance(item, Completed):
            journal.close(item.finish, item.usage, item.model_ref)
            self._end(Outcome.COMPLETED)
        else:
            self._ground.grew(self)

    # ---- what can go wrong

    def _broke(self, error: TetherError, *, lost: bool = False) -> None:
        """The worker's stream ended badly: on to another worker, or give up. `lost`: without a
        word."""
        ground = self._ground
        self._stream = None
        self.silent_until = NEVER
        expired, self._expired = self._expired, False
        if self.outcome is not None:
            return
        assignment = self._assignment
        assert assignment is not None
        worker = "" if isinstance(error, AnswerGone) else assignment.worker_address
        gone = isinstance(error, AnswerGone)
        if assignment.state is JobState.COMPLETED:
            if not self.infer.is_resume and self._number == 1:
                self.fail(AnswerGone(GONE))
                return
            # The client that it was for still waits for its end: it can be said once more.
            self._lost_fencing_token, gone = assignment.fencing_token, True
        if gone:
            # Its worker never began, or has forgotten it: it can begin anew. Or somebody else has
            # moved it, and the scheduler tells where it runs.
            error = WorkerLost("the worker doesn't hold the answer")
        now = ground.loop.time()
        ok, neutral = (True, True) if gone else self.verdict(error, now)
        if expired:
            error = Unavailable("the worker said nothing in the time that an attempt has")
            ok = neutral = ground.cold(assignment.worker_address, self.model_ref)
        if self._another_version(error):
            error, worker = Draining("the version is gone; another one answers"), ""
        verdict = self._call.settle(
            outcome_of(error, now, lost=(lost or gone) and not expired), now
        )
        if self._goes_on(verdict, worker):
            ground.released(assignment.job_id, assignment.worker_id, ok=ok, neutral=neutral)
            ground.moved(self, error)
            return
        if type(verdict) is GiveUp and isinstance(verdict.error, TetherError):
            error = verdict.error
        if isinstance(error, PeerLost):
            error = WorkerLost("the worker was lost, and no other could continue the answer")
        self.fail(error)

    def _goes_on(self, verdict: Done | Again | GiveUp, worker: str = "") -> bool:
        """Is there another attempt? Then the next one isn't at `worker`."""
        if type(verdict) is not Again:
            return False
        self._again_at = verdict.at
        self._number += 1
        if worker and worker not in self._avoid:
            self._avoid = (*self._avoid, worker)
        return True

    def expire(self) -> None:
        """Its worker has said nothing for too long. Whoever reads finds the stream ended, and
        moves on."""
        self.silent_until = NEVER
        if self._stream is not None:
            self._expired = True
            self._stream.close()

    def _another_version(self, error: TetherError) -> bool:
        """The version has gone, taken back or retired, and who has asked for its name alone gets
        the one that this stands for now; but not once anything of an answer is there."""
        asked, journal = self.infer.model_ref, self.journal
        if not isinstance(error, ModelNotFound | Unavailable) or journal.prompt_ids:
            return False
        if asked == self.model_ref or self.outcome is not None:
            return False
        card = self._ground.another(self)
        if card is None:
            return False
        self.card, self.job = card, msgspec.structs.replace(self.job, model_ref=card.ref)
        return True

    def desert(self) -> None:
        """The roster has given its worker up, though its connection stands: it hangs. Whoever
        reads finds the stream ended, and moves on."""
        if self._stream is not None:
            self._stream.close()

    def fail(self, error: TetherError) -> None:
        """End it with an error; safe to call twice."""
        if self.outcome is None:
            self.error = error
            self._end(Outcome.CANCELLED if isinstance(error, Cancelled) else Outcome.FAILED)

    def _end(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self.silent_until = NEVER
        now = self._ground.loop.time()
        if outcome is Outcome.COMPLETED:
            self._call.settle(COMPLETED, now)
        else:
            self._call.cancel(now)
        stream = self._stream
        if stream is not None and outcome is not Outcome.COMPLETED:
            stream.close()
        self._ground.landed(self)
        self._wake()

    # ---- for the gateway's books

    @property
    def job_id(self) -> str:
        return self.job.job_id

    @property
    def tenant_id(self) -> str:
        return self.job.tenant_id

    @property
    def model_ref(self) -> str:
        """The version that answers."""
        return self.job.model_ref

    @property
    def worker_id(self) -> str:
        """Where it is or was; empty before it was placed."""
        return "" if self._assignment is None else self._assignment.worker_id

    @property
    def worker_address(self) -> str:
        return "" if self._assignment is None else self._assignment.worker_address

    @property
    def streaming(self) -> bool:
        """Is a worker's stream open?"""
        return self._stream is not None

    def verdict(self, error: TetherError | None, now: float) -> tuple[bool, bool]:
        """What the end of this attempt says about its worker; see `Finished`."""
        cold = self._ground.cold(self.worker_address, self.model_ref)
        began = self.first_at is not None
        return verdict(error, waited_s=now - self._asked_at, began=began, cold=cold)

    def settle(self) -> Settle | None:
        """How the job ends, as far as this gateway knows; None where it reserved nothing."""
        assignment = self._assignment
        if assignment is None or self.outcome is None:
            return None
        if assignment.state is JobState.COMPLETED:
            return None
        if isinstance(self.error, Draining):
            return None  # the front door takes it up again, through the gateway that follows
        journal = self.journal
        completed = self.outcome is Outcome.COMPLETED
        return Settle(
            job_id=assignment.job_id,
            fencing_token=assignment.fencing_token,
            outcome=self.outcome,
            usage=journal.usage
            if completed
            else Usage(prompt_tokens=len(journal.prompt_ids), completion_tokens=journal.tokens),
            finish="" if journal.finish is None else journal.finish,
            error_code="" if self.error is None else self.error.code,
            delivered=completed,
        )
