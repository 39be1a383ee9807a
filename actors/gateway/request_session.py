"""One request on its way: placed, running on a worker, moved to another one when that is lost.

A session has no task of its own. Whoever reads from it moves it on, one event at a time. So a
request costs one task, that of its stream. What is decided on the way stands in three parts: who
reads (`session_reading`), where it runs (`session_placement`), what its job is closed with
(`session_settlement`).
"""

from __future__ import annotations

import asyncio
import random

import msgspec

from actors.contracts import (
    Assignment,
    Chunk,
    Completed,
    HeldJob,
    Infer,
    JobState,
    ModelCard,
    Outcome,
    Sampling,
    Settle,
)
from actors.core.outcome_billing import AnswerEnd, end_of_error
from actors.errors import ModelNotFound, WorkerLost
from actors.gateway.idempotency import Past, answer_gone, key_of
from actors.gateway.request_maximum import maximum
from actors.gateway.request_messages import new_job
from actors.gateway.session import Session
from actors.gateway.session_host import Chunks, SessionHost
from actors.gateway.session_placement import SessionPlacement
from actors.gateway.session_reading import SessionReading
from actors.gateway.session_settlement import outcome_of_error, settle_of
from supervision.contracts import Contract
from supervision.errors import (
    DeadlineExceeded,
    Draining,
    NoAnswer,
    PeerLost,
    TetherError,
    Unavailable,
)
from supervision.policies import Call
from supervision.runtime.cancel_cause import CancelCause

PLACE_MARGIN_S = 0.5  # the scheduler knows the deadline too, and its error says more than ours


class RequestSession(Session):
    """A session that runs. The worker settles its job if it completes or is cancelled there, the
    gateway if it fails or ends before a worker has it."""

    __slots__ = (
        "_host",
        "_stream",
        "card",
        "charged",
        "error",
        "first_at",
        "infer",
        "outcome",
        "past",
        "placement",
        "reading",
        "sampling",
        "since",
        "tenant_id",
    )

    def __init__(
        self,
        host: SessionHost[RequestSession],
        infer: Infer,
        *,
        tenant_id: str,
        card: ModelCard,
        sampling: Sampling,
        now: float,
        call: Call,
        key_id: str = "",
    ) -> None:
        key = key_of(infer, tenant_id)
        super().__init__(key, infer.fingerprint, infer.explicit_token)
        self.infer = infer
        self.card = card
        self.sampling = sampling
        job = new_job(infer, tenant_id, card.ref, key_id)
        self.placement = SessionPlacement(infer, job, call, now)
        self.reading = SessionReading(host.loop)
        self.tenant_id = tenant_id
        self.since = now
        self.charged = 0
        self.first_at: float | None = None
        self.error: TetherError | None = None
        self.outcome: Outcome | None = None
        self.past = Past()
        self._host = host
        self._stream: Chunks | None = None

    # ---- moving on

    async def step(self) -> None:
        """Moves it on by one event, for `reading`."""
        stream = self._stream
        if stream is None:
            if self.placement.begun or await self._may_begin():
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
            self._broke(error.anew())

    async def _may_begin(self) -> bool:
        """Waits until another attempt may begin; False where that was in vain."""
        loop, placement = self._host.loop, self.placement
        pause_s = placement.again_at - loop.time()
        if pause_s > 0:
            await asyncio.sleep(pause_s)
        if self.outcome is not None:
            return False
        try:
            return placement.admit(loop.time())
        except TetherError as error:
            self.fail(error)
            return False

    async def _place(self) -> None:
        host, placement = self._host, self.placement
        now = host.loop.time()
        remaining = placement.deadline - now
        if remaining <= 0:
            self.fail(DeadlineExceeded("the request's deadline passed before it found a worker"))
            return
        slo = self.card.policy.slo
        most = maximum(self.infer, self.sampling, self.card)
        ask = placement.place(self.sampling, slo, now, random.getrandbits(62) + 1, most)
        try:
            placed = await host.place(ask, timeout=remaining + PLACE_MARGIN_S)
        except asyncio.CancelledError:
            # The answer may be on its way already; whatever was placed shall be undone.
            host.released(self.job_id, "", ok=True)
            placement.unheard()
            raise
        except PeerLost:
            self.fail(Draining("the scheduler is gone, and this gateway restarts after it"))
            return
        except NoAnswer as error:
            self._unplaced(error)
            return
        except TetherError as error:
            if placement.early(error, host.loop.time()):
                self._unplaced(error)
            elif not self._another_version(error):
                self.fail(error)
            return
        assignment = placed.assignment
        if self.outcome is not None:
            host.released(assignment.job_id, "", ok=True)
            return
        if 0 < assignment.max_tokens < self.sampling.max_tokens:
            # A budget affords no more; whoever takes the job further heeds it as well.
            self.sampling = msgspec.structs.replace(self.sampling, max_tokens=assignment.max_tokens)
        try:
            self.past.led(self.infer, self.job_id, placement.assignment, assignment)
            if not placement.assigned(assignment, host.loop.time()):
                return
            answered = assignment.state is JobState.COMPLETED
            if answered and placement.job.keep and await host.said_again(self):
                self._end(Outcome.COMPLETED)
            elif self.outcome is None:
                self._open(assignment)
        except TetherError as error:
            self.fail(error)

    def _unplaced(self, error: TetherError) -> None:
        final = self.placement.unanswered(error, self._host.loop.time())
        if final is not None:
            self.fail(final)

    def _open(self, assignment: Assignment) -> None:
        """Go to the worker."""
        host = self._host
        ask = self.placement.order(assignment, self.journal, self.sampling, host.loop.time())
        try:
            self._stream = host.stream(assignment.worker_address, ask)
        except TetherError as error:
            self._broke(error)
            return
        host.placed(assignment.worker_address)

    def _take(self, item: Contract) -> None:
        journal = self.journal
        if not isinstance(item, Chunk | Completed):
            raise WorkerLost(f"the worker sent {type(item).__name__} in place of a chunk")
        if item.prompt_ids and not journal.prompt_ids:
            journal.prompt_ids = item.prompt_ids
        journal.add(item.token_ids, item.text, item.seq)
        if self.first_at is None:
            self.first_at = self._host.loop.time()
        if isinstance(item, Completed):
            journal.close(item.finish, item.usage, item.model_ref)
            self._end(Outcome.COMPLETED)
        else:
            self._host.grew(self)

    # ---- what can go wrong

    def _broke(self, error: TetherError, *, lost: bool = False) -> None:
        """The worker's stream ended badly: on to another worker, or give up. `lost`: without a
        word."""
        host, placement = self._host, self.placement
        self._stream = None
        if self.outcome is not None:
            return
        now = host.loop.time()
        broken = placement.broken(
            error, now, lost=lost, began=self.first_at is not None, cold=self._cold()
        )
        if broken is None:
            self.fail(answer_gone(self.past.billed))
            return
        if self._another_version(broken.error):
            gone = Draining("the version is gone; another one answers")
            broken = broken._replace(error=gone, avoid="")
        job, worker = self.job_id, self.worker_id
        final = placement.goes_on(broken, now)
        if final is not None:
            self.fail(final)
            return
        host.released(job, worker, ok=broken.ok, neutral=broken.neutral)
        host.moved(self, broken.error)

    def _another_version(self, error: TetherError) -> bool:
        """The version has gone, taken back or retired, and who has asked for its name alone gets
        the one that this stands for now; but not once anything of an answer is there."""
        asked, journal = self.infer.model_ref, self.journal
        if not isinstance(error, ModelNotFound | Unavailable) or journal.prompt_ids:
            return False
        if asked == self.model_ref or self.outcome is not None:
            return False
        card = self._host.another(self)
        if card is None:
            return False
        self.card = card
        self.placement.retarget(card.ref)
        return True

    def desert(self) -> None:
        """The roster has given its worker up, though its connection stands: it hangs. Whoever
        reads finds the stream ended, and moves on."""
        if self._stream is not None:
            self._stream.close(CancelCause.LEAVING)

    def expire(self, now: float) -> None:
        """If its worker has said nothing for too long, it is left for another one."""
        if self._stream is not None and self.placement.expires(self.journal, now):
            self._stream.close(CancelCause.LEAVING)

    def fail(self, error: TetherError) -> None:
        """End it with an error; safe to call twice."""
        if self.outcome is None:
            self.error = error.anew()
            self._end(outcome_of_error(error))

    def _end(self, outcome: Outcome) -> None:
        self.outcome = outcome
        completed = outcome is Outcome.COMPLETED
        self.placement.close(self._host.loop.time(), completed=completed)
        if self._stream is not None and not completed:
            by_client = end_of_error(self.error) is not AnswerEnd.BROKEN
            self._stream.close(CancelCause.CANCELLED if by_client else CancelCause.LEAVING)
        self._host.ended(self)
        self.reading.wake()

    # ---- for the gateway's books

    @property
    def job_id(self) -> str:
        return self.placement.job.job_id

    @property
    def model_ref(self) -> str:
        """The version that answers."""
        return self.placement.job.model_ref

    @property
    def worker_id(self) -> str:
        """Where it is or was; empty before it was placed."""
        assignment = self.placement.assignment
        return "" if assignment is None else assignment.worker_id

    @property
    def worker_address(self) -> str:
        assignment = self.placement.assignment
        return "" if assignment is None else assignment.worker_address

    @property
    def attached(self) -> bool:
        """Is it led to a run that was there before?"""
        assignment = self.placement.assignment
        return assignment is not None and assignment.state is JobState.RUNNING

    @property
    def streaming(self) -> bool:
        """Is a worker's stream open?"""
        return self._stream is not None

    @property
    def broken_off(self) -> bool:
        """Did it end before its worker had said the end, by this side or by its deadline? Then
        only the worker knows what was computed."""
        late = isinstance(self.error, DeadlineExceeded)
        return self.error is not None and (self._stream is not None or late)

    def _cold(self) -> bool:
        return self._host.cold(self.worker_address, self.model_ref)

    def verdict(self, now: float) -> tuple[bool, bool]:
        """What its end says about its worker; see `Finished`."""
        began = self.first_at is not None
        return self.placement.verdict(self.error, now, began=began, cold=self._cold())

    def held_job(self) -> HeldJob | None:
        """The job that it has in hand, to be renewed; None before it is placed."""
        assignment = self.placement.assignment
        if assignment is None or assignment.state is JobState.COMPLETED:
            return None
        return HeldJob(
            job_id=assignment.job_id,
            fencing_token=assignment.fencing_token,
            emitted=self.journal.tokens,
        )

    def settle(self) -> Settle | None:
        """How the job ends, as far as this gateway knows; None where it reserved nothing."""
        if self.outcome is None:
            return None
        return settle_of(self.placement.assignment, self.journal, self.outcome, self.error)
