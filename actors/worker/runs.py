"""The runs of a worker: from an order to an answer that is settled."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import aclosing, suppress

from msgspec.structs import replace

from actors.contracts import Finish, HeldJob, Run
from actors.core.answer_packing import AnswerPacking
from actors.core.control_lookup import ControlLookup
from actors.engines.engine import Engine
from actors.errors import WorkerLost
from actors.reservation.renewer import Renewer
from actors.reservation.settler import Settler
from actors.worker.model_lease import ModelLease
from actors.worker.options import WorkerOptions
from actors.worker.run import Ending, ModelRun
from actors.worker.run_store import RunStore
from actors.worker.slot_limiter import QuotaGuard
from supervision.child import Supervised
from supervision.errors import Overloaded, TetherError
from supervision.runtime.cancel_cause import CancelCause
from supervision.telemetry import bounds
from supervision.telemetry.bounded_log import BoundedLog

heard = BoundedLog(__name__)

LAST_WORDS_S = 0.5  # at the end, for what was broken off to be said
DELIVERY_S = 2.0  # how long a settle waits for a reader that is slow to take the last chunk
MOMENT_S = 0.002


class Runs:
    """Slots, records, and one task a run: it computes, waits until the last chunk has left, and
    settles. All times are the loop's."""

    def __init__(
        self, actor: Supervised, options: WorkerOptions, control: ControlLookup | None = None
    ) -> None:
        self._actor = actor
        self._loop = actor.loop
        self._options = options
        self._guard: QuotaGuard[ModelRun] = QuotaGuard(options.slots, options.queue)
        self._records = RunStore(options.kept, options.kept_tokens, options.keep_s)
        self._settler = Settler(actor, "worker", control, options.spool)
        self._packing = AnswerPacking(options.answers, "worker")
        self.renewer = Renewer(
            actor,
            "worker",
            self.held_jobs,
            self.lost,
            every_s=options.renew_s,
            where=control,
            heard=self._settler.heard,
        )
        self._cold = 0
        self._unsettled: dict[str, ModelRun] = {}
        """By job: those that run or wait, and those that nobody has said yet to be settled."""
        self._tasks = 0
        self._idle = asyncio.Event()
        self._soon: asyncio.Future[None] | None = None
        self._undelivered: set[ModelRun] = set()
        self._later: set[ModelRun] = set()
        self._flush_timer: asyncio.TimerHandle | None = None
        self._bind_metrics()

    @property
    def running(self) -> int:
        """Runs that have a slot."""
        return self._guard.running

    @property
    def queued(self) -> int:
        """Runs that wait for one, or for their model to be loaded."""
        return self._guard.queued + self._cold

    @property
    def placed_by(self) -> tuple[tuple[str, int], ...]:
        """How many run or wait, by the node that has sent them. Looks at all."""
        return tuple(sorted(Counter(run.placed_by for run in self._records.running).items()))

    def find(self, job_id: str, fencing_token: int = 0) -> ModelRun | None:
        """The run of this job, if it is held; with a `fencing_token`, only one under it."""
        return self._records.find(job_id, fencing_token)

    def held(self, run: Run) -> ModelRun | None:
        """The run that follows just this order already.

        Raises:
            AnswerGone: the job was given away again since; the order is stale.
        """
        held = self._records.check_token(run.job.job_id, run.fencing_token)
        return held if held is not None and held.same(run) else None

    def begin(self, run: Run, use: ModelLease) -> ModelRun:
        """Take a run on, and `use` with it; that its request is at fault, its readers are told.

        Raises:
            Overloaded: slots and queue are full, or too many answers wait to be settled, or the
                spool of the node has no room for more of them.
            DiskFull: the spool can't be written.
        """
        self._settler.check(self._tasks)
        if self._tasks - self.running - self.queued >= self._options.unsettled:
            self._refused_unsettled.inc()
            raise Overloaded("too many answers wait to be settled", retry_after_s=1.0)
        execution = ModelRun(run, use, run.prompt_ids, self._loop.time())
        try:
            self._admit(execution)
        except Overloaded:
            self._refused_slots.inc()
            raise
        older = self._records.find(run.job.job_id)
        if older is not None:
            older.break_off(Ending.SUPERSEDED)
        self._records.add(execution)
        self._unsettled[run.job.job_id] = execution
        self._tasks += 1
        self._idle.clear()
        # not `background`: it outlives the orderly end of handlers, and has its own bound
        task = execution.task = self._loop.create_task(self._pump(execution))
        task.add_done_callback(lambda done: self._pumped(done, execution))
        return execution

    def _admit(self, execution: ModelRun) -> None:
        """A slot, a place in the queue, or a place among those whose model isn't loaded: these hold
        no slot, and count as the queue does.

        Raises:
            Overloaded: slots and queue are full.
        """
        guard = self._guard
        full = guard.running + self.queued >= guard.slots + guard.queue
        if full and (self._cold or execution.cold):
            raise Overloaded(
                f"{guard.running} requests run and {self.queued} wait, some of them for their "
                "model to be loaded; try another worker",
                retry_after_s=0.5,
            )
        if execution.cold:
            self._cold += 1
        elif not guard.admit(execution):
            execution.slot = self._loop.create_future()

    def deserted(self, execution: ModelRun, why: CancelCause) -> None:
        """A run has no reader left: its client left (cancelled), or its gateway died."""
        if why is CancelCause.CANCELLED:
            execution.break_off(Ending.CANCELLED)
        elif why is CancelCause.LEAVING:
            execution.break_off(Ending.LEFT)
        elif why is CancelCause.PEER_LOST:
            execution.left_at = self._loop.time()

    async def stop(self, deadline_s: float) -> None:
        """Let what runs finish and be settled, and hand the rest on. What nobody has taken by then
        is in the spool."""
        await self._quiet(deadline_s - 2 * LAST_WORDS_S)
        for execution in list(self._records.running):
            execution.break_off(Ending.STOPPING)
        await self._quiet(LAST_WORDS_S)
        await self._settler.close()

    async def _quiet(self, timeout_s: float) -> None:
        """Returns when nothing runs, or after `timeout_s`."""
        if self._tasks and timeout_s > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), timeout_s)

    # ---- leases

    def held_jobs(self) -> Iterator[HeldJob]:
        """Those whose leases must go on."""
        for job_id, execution in self._unsettled.items():
            yield HeldJob(
                job_id=job_id,
                fencing_token=execution.run.fencing_token,
                emitted=execution.journal.tokens,
            )

    def lost(self, held: HeldJob) -> None:
        """The lease of a job is gone: it is renewed no more. What runs goes on, for somebody may
        read it, and what is read is billed."""
        execution = self._unsettled.get(held.job_id)
        if execution is not None and execution.run.fencing_token == held.fencing_token:
            del self._unsettled[held.job_id]

    # ---- one run

    async def _pump(self, execution: ModelRun) -> None:
        """From the engine into the journal, then to reservation."""
        await self._compute(execution)
        settle = execution.settle()
        if settle is None or execution.kept:
            return
        if (computed := execution.computed()) is not None and execution.gateway is not None:
            with suppress(TetherError):  # it is gone, and another one counts from here on
                self._actor.tell(execution.gateway, computed)
        if self._guard.running:
            await self._moment()  # shared, and nothing cancels a run that is over
        if execution.ends and execution.journal.finish is not None:
            execution.delivered = self._loop.create_future()
            self._undelivered.add(execution)
            await execution.delivered
            self._undelivered.discard(execution)
        if execution.done_reading:
            settle = execution.settle() or settle
        async with execution.packed(self._packing) as answer:
            settle = replace(settle, answer=answer) if answer else settle
            await self._settler.settle(settle, near=execution.placed_by)

    def _moment(self) -> asyncio.Future[None]:
        """A little later, the same for all who wait: what they then say leaves in one write, and
        is one round for reservation. The last chunks leave meanwhile."""
        if self._soon is None:
            self._soon = self._loop.create_future()
            self._loop.call_later(MOMENT_S, self._now)
        return self._soon

    def _now(self) -> None:
        soon, self._soon = self._soon, None
        if soon is not None and not soon.done():
            soon.set_result(None)

    async def _compute(self, execution: ModelRun) -> None:
        run, journal, loop = execution.run, execution.journal, self._loop
        try:
            engine = execution.use.engine or await self._warmed(execution)
            if not journal.prompt_ids:
                journal.prompt_ids = await engine.prompt(run.input)
            engine.check(len(journal.prompt_ids), run.sampling)
            if execution.slot is not None:
                await execution.slot
                execution.slot = None
            execution.begun = True
            async with aclosing(engine.run(execution.generation())) as deltas:
                async for delta in deltas:
                    journal.add(delta.token_ids, delta.text)
                    if delta.finish is not None:
                        await self._close(execution, delta.finish)
                    elif execution.news(loop.time()):
                        self.read_later(execution)
            if journal.finish is None:
                execution.error = WorkerLost("the engine ended without an end of the answer")
        except asyncio.CancelledError:
            execution.error = execution.explain()
            if execution.ending is None:
                raise
            task = asyncio.current_task()
            if task is not None:
                task.uncancel()
        except TetherError as error:
            execution.error = error.anew()
        except Exception:
            ref = run.job.model_ref
            heard.exception("an engine failed", ref, job_id=run.job.job_id, model=ref)
            execution.error = WorkerLost("the engine failed; another worker may continue")
        finally:
            self._over(execution)

    async def _close(self, execution: ModelRun, finish: Finish) -> None:
        """The answer is complete. Nobody has its end before its bill is on the disk, where
        reservation doesn't answer."""
        journal = execution.journal
        usage = execution.counted()
        if self._settler.away:
            settle = replace(execution.completed(finish), delivered=bool(execution.ends))
            execution.kept = await self._settler.ahead(settle, execution.placed_by)
        journal.close(finish, usage, execution.run.job.model_ref)

    async def _warmed(self, execution: ModelRun) -> Engine:
        """Its model, once that is loaded; from then on it is as any other run."""
        engine = await execution.use.get()
        execution.cold = False
        self._cold -= 1
        self._admit(execution)  # its place is free: it counted for one until now
        return engine

    def _over(self, execution: ModelRun) -> None:
        """The engine is done with it: pass on the slot, let the readers see the end."""
        execution.use.done()
        if execution.cold:
            self._cold -= 1
        elif execution.slot is not None and self._guard.forget(execution):
            pass  # it never had a slot
        else:
            following = self._guard.leave()
            if following is not None:
                assert following.slot is not None
                if not following.slot.done():
                    following.slot.set_result(None)
        execution.finished_at = self._loop.time()
        self._later.discard(execution)
        self._records.over(execution, keep=execution.error is None)
        execution.wake()

    def _pumped(self, task: asyncio.Task[None], execution: ModelRun) -> None:
        if self._unsettled.get(execution.run.job.job_id) is execution:
            del self._unsettled[execution.run.job.job_id]
        self._tasks -= 1
        if not self._tasks:
            self._idle.set()
        if execution.running:  # cancelled before its first step
            execution.error = execution.explain()
            self._over(execution)
        if not task.cancelled() and task.exception() is not None:
            heard.error("a run failed", "", exc_info=task.exception())

    # ---- time

    def read_later(self, execution: ModelRun) -> None:
        """Some reader of it waits for the window to pass; one timer serves all."""
        self._later.add(execution)
        if self._flush_timer is None:
            self._flush_timer = self._loop.call_later(self._options.window_s, self._flush)

    def _flush(self) -> None:
        self._flush_timer = None
        later, self._later = self._later, set()
        for execution in later:
            execution.wake()

    def sweep(self, now: float) -> None:
        """A few times a second: deadlines, grace, and what was kept long enough."""
        for execution in list(self._records.running):
            execution.sweep(now, self._options.grace_s)
        for execution in self._undelivered:
            if now - (execution.finished_at or now) >= DELIVERY_S:
                execution.delivered_or_not()
        self._records.sweep(now)
        for gauge, value in (
            (self._used_slots, self._guard.running),
            (self._used_queue, self.queued),
            (self._used_records, len(self._records)),
            (self._used_tokens, self._records.tokens),
            (self._used_tasks, self._tasks),
        ):
            gauge.set(value)

    def _bind_metrics(self) -> None:
        self._refused_slots = bounds.refused.labels("worker_slots")
        self._refused_unsettled = bounds.refused.labels("worker_unsettled")
        self._used_slots = bounds.used.labels("worker_slots")
        self._used_queue = bounds.used.labels("worker_queue")
        self._used_records = bounds.used.labels("worker_records")
        self._used_tokens = bounds.used.labels("worker_record_tokens")
        self._used_tasks = bounds.used.labels("worker_unsettled")
