"""The actor that runs models: has the last word on its slots, and keeps what it has said."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from actors.runtime import Address, on
from actors.settler import Settler
from actors.worker import loader
from actors.worker.execution import End, Ending, Execution
from actors.worker.health import HealthReporter, memory_bytes
from actors.worker.options import WorkerOptions
from actors.worker.records import Records
from supervision import ChildSpec, Supervised
from tether.contracts import Attach, Chunk, Completed, HealthReport, ModelCard, Run, Usage
from tether.core.quota import QuotaGuard
from tether.engines import Engine, Job
from tether.errors import (
    AnswerGone,
    Draining,
    ModelNotFound,
    Overloaded,
    TetherError,
    WorkerLost,
)
from tether.telemetry import logs, metrics

log = logs.get(__name__)

TICK_S = 0.1
LAST_WORDS_S = 0.5  # at the end, for what was broken off to be said
MOMENT_S = 0.002
DELIVERY_S = 2.0  # how long a settle waits for a reader that is slow to take the last chunk
ROSTER = "control/roster"


class Worker(Supervised):
    """Answers `Run` and `Attach`. Lives beside the control chain and outlasts it: it finds
    roster and reservation by the tree, each time they are needed."""

    Options: ClassVar[type[msgspec.Struct]] = WorkerOptions
    max_handlers: ClassVar[int] = 16_384

    @classmethod
    def spec(
        cls, options: msgspec.Struct | None = None, *, id: str = "", **changes: Any
    ) -> ChildSpec:
        changes.setdefault("shutdown", 30.0)
        return super().spec(options, id=id or getattr(options, "worker_id", ""), **changes)

    async def start(self, options: WorkerOptions) -> None:
        self._options = options
        self._engines: dict[str, Engine] = {}
        self._guard: QuotaGuard[Execution] = QuotaGuard(options.slots, options.queue)
        self._records = Records(options.kept, options.kept_tokens, options.keep_s)
        self._settler = Settler(self, "worker")
        self._tasks = 0
        self._idle = asyncio.Event()
        self._soon: asyncio.Future[None] | None = None
        self._undelivered: set[Execution] = set()
        self._draining = False
        self._later: set[Execution] = set()
        self._flush_timer: asyncio.TimerHandle | None = None
        self._health = HealthReporter(options.report_s, time.time_ns(), self._send_report)
        self._roster: Address | None = None
        self._bind_metrics()
        self.tree.on_change(self._tree_changed)
        self.background(self._load(), name="load")
        self.background(self._sweep(), name="sweep")

    async def stop(self, deadline_s: float) -> None:
        """Takes no more, lets what runs finish and be settled, and hands the rest on."""
        self._draining = True
        self._health.touch()
        self._report(self.loop.time())
        await self._quiet(deadline_s - 2 * LAST_WORDS_S)
        for execution in list(self._records.running):
            execution.break_off(Ending.STOPPING)
        await self._quiet(LAST_WORDS_S)
        for engine in self._engines.values():
            await engine.close()

    async def _quiet(self, timeout_s: float) -> None:
        """Returns when nothing runs, or after `timeout_s`."""
        if self._tasks and timeout_s > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), timeout_s)

    # ---- runs

    @on(Run, Attach)
    async def answer(self, msg: Run | Attach, sender: Address) -> AsyncIterator[Chunk | Completed]:
        """A new run, or one that is held, from a token on.

        Raises:
            ModelNotFound, BadRequest, ContextExceeded: the request is at fault.
            Overloaded, Draining: nothing began; try another worker.
            Conflict: the fence is stale.
            AnswerGone: the run isn't held, or not from that token on.
            WorkerLost: the engine failed.
            DeadlineExceeded: it wasn't complete in time.
        """
        execution = self._begin(msg) if isinstance(msg, Run) else self._held(msg)
        options = self._options
        end = End(
            execution,
            from_seq=execution.journal.base if isinstance(msg, Run) else msg.from_seq,
            whole=not msg.stream,
            split_at=msg.split_at,
            window_s=options.window_s,
            characters=options.chunk_characters,
        )
        why = ""
        try:
            while True:
                item = await end.item(self.loop, self._read_later)
                yield item
                if type(item) is Completed:
                    return
        except asyncio.CancelledError as cancelled:
            why = str(cancelled.args[0]) if cancelled.args else "cancelled"
            raise
        except GeneratorExit:
            why = "cancelled"
            raise
        finally:
            end.leave()
            if why and not execution.ends and execution.running:
                self._deserted(execution, why)

    def _begin(self, msg: Run) -> Execution:
        held = self._records.check_fence(msg.job_id, msg.fence)
        if held is not None and held.same(msg):
            return held  # the same order once more
        engine = self._engines.get(msg.model_ref)
        if engine is None:
            if any(card.ref == msg.model_ref for card in self._options.cards):
                raise Overloaded(f"this worker is still loading {msg.model_ref}")
            raise ModelNotFound(f"this worker doesn't have {msg.model_ref}", param="model")
        if self._draining:
            raise Draining("this worker is stopping; try another one")
        if self._tasks - self._guard.running - self._guard.queued >= self._options.unsettled:
            self._refused_unsettled.inc()
            raise Overloaded("too many answers wait to be settled", retry_after_s=1.0)
        prompt_ids = msg.prompt_ids or engine.prompt(msg.input)
        engine.check(len(prompt_ids), msg.sampling)
        now = self.loop.time()
        execution = Execution(msg, engine, prompt_ids, now)
        try:
            if not self._guard.admit(execution):
                execution.slot = self.loop.create_future()
        except Overloaded:
            self._refused_slots.inc()
            raise
        if held is not None:
            held.break_off(Ending.SUPERSEDED)
        self._records.add(execution)
        self._tasks += 1
        # not `background`: it outlives the orderly end of handlers, and has its own bound
        task = execution.task = self.loop.create_task(self._pump(execution))
        task.add_done_callback(lambda done: self._pumped(done, execution))
        return execution

    def _held(self, msg: Attach) -> Execution:
        execution = self._records.find(msg.job_id)
        if execution is None:
            raise AnswerGone("this worker doesn't hold the answer (any more)")
        return execution

    def _deserted(self, execution: Execution, why: str) -> None:
        """A run has no reader left."""
        if why == "cancelled":
            execution.break_off(Ending.CANCELLED)
        elif why == "peer_lost":
            execution.left_at = self.loop.time()

    # ---- the engine

    async def _pump(self, execution: Execution) -> None:
        """From the engine into the journal, then to reservation."""
        await self._compute(execution)
        settle = execution.settle()
        if settle is None:
            return
        if self._guard.running:
            await self._moment()  # shared, and nothing cancels a run that is over
        if execution.ends and execution.journal.finish is not None:
            execution.delivered = self.loop.create_future()
            self._undelivered.add(execution)
            await execution.delivered
            self._undelivered.discard(execution)
        await self._settler.settle(settle)

    def _moment(self) -> asyncio.Future[None]:
        """A little later, the same for all who wait: what they then say leaves in one write, and
        is one round for reservation. The last chunks leave meanwhile."""
        if self._soon is None:
            self._soon = self.loop.create_future()
            self.loop.call_later(MOMENT_S, self._now)
        return self._soon

    def _now(self) -> None:
        soon, self._soon = self._soon, None
        if soon is not None and not soon.done():
            soon.set_result(None)

    async def _compute(self, execution: Execution) -> None:
        run, journal, loop = execution.run, execution.journal, self.loop
        try:
            if execution.slot is not None:
                await execution.slot
                execution.slot = None
            job = Job(
                prompt_ids=journal.prompt_ids, emitted_ids=run.emitted_ids, sampling=run.sampling
            )
            async with aclosing(execution.engine.run(job)) as deltas:
                async for delta in deltas:
                    journal.add(delta.token_ids, delta.text)
                    if delta.finish is not None:
                        journal.close(
                            delta.finish,
                            Usage(
                                prompt_tokens=len(journal.prompt_ids),
                                completion_tokens=journal.tokens,
                            ),
                            run.model_ref,
                        )
                    elif execution.news(loop.time()):
                        self._read_later(execution)
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
            execution.error = error
        except Exception:
            log.exception("an engine failed", job_id=run.job_id, model=run.model_ref)
            execution.error = WorkerLost("the engine failed; another worker may continue")
        finally:
            self._over(execution)

    def _over(self, execution: Execution) -> None:
        """The engine is done with it: pass on the slot, let the readers see the end."""
        if execution.slot is not None and self._guard.forget(execution):
            pass  # it never had a slot
        else:
            following = self._guard.leave()
            if following is not None:
                assert following.slot is not None
                if not following.slot.done():
                    following.slot.set_result(None)
        execution.finished_at = self.loop.time()
        self._later.discard(execution)
        self._records.over(execution, keep=execution.error is None)
        execution.wake()

    def _pumped(self, task: asyncio.Task[None], execution: Execution) -> None:
        self._tasks -= 1
        if not self._tasks and self._draining:
            self._idle.set()
        if execution.running:  # cancelled before its first step
            execution.error = execution.explain()
            self._over(execution)
        if not task.cancelled() and task.exception() is not None:
            log.error("a run failed", exc_info=task.exception())

    # ---- time

    def _read_later(self, execution: Execution) -> None:
        """Some reader of it waits for the window to pass; one timer serves all."""
        self._later.add(execution)
        if self._flush_timer is None:
            self._flush_timer = self.loop.call_later(self._options.window_s, self._flush)

    def _flush(self) -> None:
        self._flush_timer = None
        later, self._later = self._later, set()
        for execution in later:
            execution.wake()

    async def _sweep(self) -> None:
        options = self._options
        while True:
            await asyncio.sleep(TICK_S)
            now = self.loop.time()
            for execution in list(self._records.running):
                if now >= execution.deadline:
                    execution.break_off(Ending.LATE)
                elif execution.left_at is not None and now - execution.left_at >= options.grace_s:
                    execution.break_off(Ending.CANCELLED)
            for execution in self._undelivered:
                if now - (execution.finished_at or now) >= DELIVERY_S:
                    execution.delivered_or_not()
            for engine in self._engines.values():
                if fault := engine.snapshot().fault:
                    await self.fail(WorkerLost(fault))
                    return
            self._records.sweep(now)
            self._report(now)
            self._used_slots.set(self._guard.running)
            self._used_queue.set(self._guard.queued)
            self._used_records.set(len(self._records))
            self._used_tokens.set(self._records.tokens)
            self._used_tasks.set(self._tasks)

    # ---- models

    async def _load(self) -> None:
        for card in self._options.cards:
            try:
                await self._load_one(card)
            except TetherError as error:
                log.error("a model can't be loaded", model=card.ref, error=error.message)
                await self.fail(error)
                return

    async def _load_one(self, card: ModelCard) -> None:
        options = self._options
        engine = await loader.load(
            card,
            slots=options.slots,
            queue=options.queue,
            threads=options.threads,
            cache_dir=Path(options.cache_dir),
        )
        self._engines[card.ref] = engine
        self._health.touch()
        self._report(self.loop.time())

    # ---- health

    def _report(self, now: float) -> None:
        guard, health = self._guard, self._health
        if not health.due(guard.running, guard.queued, now):
            return
        options = self._options
        tags = {engine.capabilities.tag for engine in self._engines.values()}
        health.send(
            HealthReport(
                worker_id=options.worker_id,
                node_id=options.node_id,
                address=str(self.address),
                region=options.region,
                slots=options.slots,
                running=guard.running,
                queued=guard.queued,
                models=tuple(self._engines),
                epoch=health.epoch,
                sequence=health.next_sequence(),
                draining=self._draining,
                memory_bytes=memory_bytes(),
                resume_tag=" ".join(sorted(tags)),
            ),
            now,
        )

    def _send_report(self, report: HealthReport) -> bool:
        roster = self.tree.address(ROSTER)
        if roster is None:
            return False
        try:
            self.tell(roster, report)
        except TetherError:
            return False
        return True

    def _tree_changed(self, *_: object) -> None:
        """A roster that has just started knows nobody."""
        roster = self.tree.address(ROSTER)
        if roster is not None and roster != self._roster:
            self._roster = roster
            self._health.touch()
            self._report(self.loop.time())

    def _bind_metrics(self) -> None:
        self._refused_slots = metrics.bound_refused.labels("worker_slots")
        self._refused_unsettled = metrics.bound_refused.labels("worker_unsettled")
        self._used_slots = metrics.bound_used.labels("worker_slots")
        self._used_queue = metrics.bound_used.labels("worker_queue")
        self._used_records = metrics.bound_used.labels("worker_records")
        self._used_tokens = metrics.bound_used.labels("worker_record_tokens")
        self._used_tasks = metrics.bound_used.labels("worker_unsettled")
