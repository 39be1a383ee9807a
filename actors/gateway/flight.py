"""One request on its way: placed, running on a worker, moved to another one when that is lost.

A flight has no task of its own. Whoever reads from it moves it on, one event at a time; the
others wait for what that one brings. So a request costs one task, that of its stream, and a
reader that leaves at any point leaves a flight which the next reader can take further.
"""

from __future__ import annotations

import asyncio
import random

from actors.gateway.ground import Chunks, Ground
from actors.gateway.orders import attach, place, run
from supervision.policies import Budget
from tether.contracts import (
    Attach,
    Chunk,
    Completed,
    Contract,
    Infer,
    ModelCard,
    Outcome,
    Placed,
    Run,
    Sampling,
    Settle,
    Usage,
)
from tether.core.attempts import Attempts, verdict
from tether.core.ids import job_id
from tether.core.session import Session
from tether.errors import (
    AnswerGone,
    Cancelled,
    Conflict,
    DeadlineExceeded,
    Draining,
    ModelNotFound,
    NoAnswer,
    PeerLost,
    TetherError,
    Unavailable,
    WorkerLost,
)

GONE = (
    "this request was answered, and the worker that kept the answer is gone; send it with a new "
    "idempotency key"
)
EARLY_S = 0.5  # before the deadline: no clock is that far off in one request
PLACE_MARGIN_S = 0.5  # the scheduler knows the deadline too, and its error says more than ours


class Flight(Session):
    """A session that runs. The worker settles its job if it completes or is cancelled there,
    the gateway if it fails or ends before a worker has it."""

    __slots__ = (
        "_asked_at",
        "_attached",
        "_attempts",
        "_claim",
        "_ground",
        "_lost",
        "_moving",
        "_placed",
        "_stream",
        "_waiters",
        "card",
        "charged",
        "deadline",
        "error",
        "first_at",
        "infer",
        "job_id",
        "left_at",
        "listeners",
        "model_ref",
        "outcome",
        "sampling",
        "since",
        "tenant_id",
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
        deadline_s: float,
        attempts: int,
        budget: Budget | None = None,
    ) -> None:
        super().__init__((tenant_id, infer.retry_token), infer.fingerprint, infer.explicit_token)
        self.infer = infer
        self.tenant_id = tenant_id
        self.card = card
        self.model_ref = card.ref
        self.sampling = sampling
        self.job_id = job_id()
        self.since = now
        self.deadline = now + deadline_s
        self.charged = 0
        self.listeners = 0
        self.left_at: float | None = None
        """Since when nobody listens, while the flight is kept for them to come back."""
        self.first_at: float | None = None
        self.error: TetherError | None = None
        self.outcome: Outcome | None = None
        self._ground = ground
        self._attempts = Attempts(self.deadline, attempts, budget=budget)
        self._claim = 0
        """The last one drawn, or told; see `Reserve`."""
        self._lost = 0
        self._asked_at = now
        self._placed: Placed | None = None
        self._attached = False
        self._stream: Chunks | None = None
        self._moving = False
        self._waiters: list[asyncio.Future[None]] = []

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

    async def _place(self) -> None:
        ground = self._ground
        now = ground.loop.time()
        remaining = self.deadline - now
        if remaining <= 0:
            self.fail(DeadlineExceeded("the request's deadline passed before it found a worker"))
            return
        attempts = self._attempts
        held, self._claim = self._claim, random.getrandbits(62) + 1
        ask = place(
            self.infer,
            attempts,
            job_id=self.job_id,
            tenant_id=self.tenant_id,
            model_ref=self.model_ref,
            sampling=self.sampling,
            deadline_s=remaining,
            claim=self._claim,
            held=held,
            lost=self._lost,
            slo=self.card.policy.slo,
        )
        try:
            placed = await ground.place(ask, timeout=remaining + PLACE_MARGIN_S)
        except asyncio.CancelledError:
            # The answer may be on its way already; whatever was placed shall be undone. If
            # another reader places the job again, then under a fence that this can't undo.
            ground.released(self.job_id, "", ok=True)
            attempts.number += 1
            raise
        except PeerLost:
            self.fail(Draining("the scheduler is gone, and this gateway restarts after it"))
            return
        except NoAnswer as error:
            self._unplaced(error)
            return
        except TetherError as error:
            if self._early(error):
                self._unplaced(error)
            elif not self._another_version(error):
                self.fail(error)
            return
        if self.outcome is not None:
            ground.released(placed.job_id, "", ok=True)
            return
        before, self._placed = self._placed, placed
        self.job_id = placed.job_id
        self._claim = placed.claim
        if placed.known == "running" and before is not None and before.fence == placed.fence:
            # Somebody else was led to the very run that we left, so our claim is old: ask again
            # under the one that we were told.
            if not attempts.outpaced():
                self.fail(WorkerLost("others take this job again and again; send it anew"))
            return
        if placed.known not in ("", "running", "completed"):
            word = f"the job of this idempotency key ended as {placed.known}; use a new key"
            self.fail(Conflict(word, param="retry_token"))
            return
        self._open(placed)

    def _unplaced(self, error: TetherError) -> None:
        """Somebody hangs. If it was reserved all the same, our next claim finds that; and who hangs
        for long is restarted, so there is sense in asking until the deadline."""
        now = self._ground.loop.time()
        if now >= self.deadline:
            self.fail(DeadlineExceeded(f"no worker before the deadline: {error.message}"))
        elif not self._attempts.unanswered(now):
            self.fail(NoAnswer(error.message, retry_after_s=1.0))

    def _open(self, placed: Placed) -> None:
        """Go to the worker."""
        ground = self._ground
        now = ground.loop.time()
        self._attached = bool(placed.known)
        ask: Run | Attach
        if self._attached:
            ask = attach(self.infer, placed, self.journal)
        else:
            ask = run(
                self.infer,
                placed,
                self.journal,
                tenant_id=self.tenant_id,
                model_ref=self.model_ref,
                sampling=self.sampling,
                deadline_s=self.deadline - now,
            )
        self._asked_at = now
        try:
            self._stream = ground.stream(placed.worker_address, ask)
        except TetherError as error:
            self._broke(error)
            return
        ground.placed(placed.worker_address)

    def _take(self, item: Contract) -> None:
        journal = self.journal
        if not isinstance(item, Chunk | Completed):
            raise WorkerLost(f"the worker sent {type(item).__name__} in place of a chunk")
        if item.prompt_ids and not journal.prompt_ids:
            journal.prompt_ids = item.prompt_ids
        journal.add(item.token_ids, item.text, item.seq)
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
        if self.outcome is not None:
            return
        placed = self._placed
        assert placed is not None
        worker = "" if isinstance(error, AnswerGone) else placed.worker_address
        gone = isinstance(error, AnswerGone) or self._early(error)
        if placed.known == "completed":
            if not self.infer.again and self._attempts.number == 1:
                self.fail(AnswerGone(GONE))
                return
            # The client that it was for still waits for its end: it can be said once more.
            self._lost, gone = placed.fence, True
        if gone:
            # Its worker never began, or has forgotten it: it can begin anew. Or somebody else has
            # moved it, and the scheduler tells where it runs.
            error = WorkerLost("the worker doesn't hold the answer")
        now = ground.loop.time()
        ok, neutral = (True, True) if gone else self.verdict(error, now)
        if self._another_version(error):
            error, worker = Draining("the version is gone; another one answers"), ""
        if self._attempts.again(error, worker, now, lost=lost or gone):
            ground.released(placed.job_id, placed.worker_id, ok=ok, neutral=neutral)
            ground.moved(self, error)
            return
        if isinstance(error, PeerLost):
            error = WorkerLost("the worker was lost, and no other could continue the answer")
        self.fail(error)

    def _early(self, error: TetherError) -> bool:
        """It ended at a deadline that isn't ours: somebody asked for the same before us, and had
        less time. Its job is over, and can begin anew."""
        left_s = self.deadline - self._ground.loop.time()
        return isinstance(error, DeadlineExceeded) and left_s > EARLY_S

    def prolong(self, deadline: float) -> None:
        """Somebody has joined it who waits until then."""
        if deadline > self.deadline:
            self.deadline = self._attempts.deadline = deadline

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
        self.card, self.model_ref = card, card.ref
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
        stream = self._stream
        if stream is not None and outcome is not Outcome.COMPLETED:
            stream.close()
        self._ground.landed(self)
        self._wake()

    # ---- for the gateway's books

    @property
    def worker_id(self) -> str:
        """Where it is or was; empty before it was placed."""
        return "" if self._placed is None else self._placed.worker_id

    @property
    def worker_address(self) -> str:
        return "" if self._placed is None else self._placed.worker_address

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
        placed = self._placed
        if placed is None or placed.known == "completed" or self.outcome is None:
            return None
        if isinstance(self.error, Draining):
            return None  # the front door takes it up again, through the gateway that follows
        journal = self.journal
        completed = self.outcome is Outcome.COMPLETED
        return Settle(
            job_id=placed.job_id,
            fence=placed.fence,
            outcome=self.outcome,
            usage=journal.usage
            if completed
            else Usage(prompt_tokens=len(journal.prompt_ids), completion_tokens=journal.tokens),
            finish="" if journal.finish is None else journal.finish,
            error_code="" if self.error is None else self.error.code,
            delivered=completed,
        )
