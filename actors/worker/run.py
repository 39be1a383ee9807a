"""One run on this worker: what it has said so far, who listens, and how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, nullcontext
from enum import Enum, auto

from msgspec.structs import replace

from actors.contracts import Chunk, Completed, Computed, Finish, Outcome, Run, Settle, Usage
from actors.core.answer_packing import AnswerPacking
from actors.core.journal import Journal, Reader
from actors.core.outcome_billing import AnswerEnd, AnswerSoFar, billed
from actors.engines.generation import Generation
from actors.errors import AnswerGone
from actors.worker.coalescer import Coalescer
from actors.worker.model_lease import ModelLease
from supervision.errors import Cancelled, DeadlineExceeded, Draining, TetherError
from supervision.runtime import Address


class Ending(Enum):
    """Why a run was broken off from our side."""

    CANCELLED = auto()  # its client left, or its gateway did not come back
    LATE = auto()  # its deadline passed
    LEFT = auto()  # its gateway goes on without it, or ends the job itself: not the client's doing
    SUPERSEDED = auto()  # it runs elsewhere, or here under a later fencing token
    STOPPING = auto()  # the worker goes; another one continues


class ModelRun:
    """The record of a run. It outlives its readers for a while, so that a gateway which lost
    its memory, or its life, finds the answer again."""

    __slots__ = (
        "begun",
        "cold",
        "deadline",
        "delivered",
        "done_reading",
        "ending",
        "ends",
        "error",
        "finished_at",
        "gateway",
        "handed",
        "journal",
        "kept",
        "left_at",
        "placed_by",
        "run",
        "slot",
        "task",
        "use",
    )

    def __init__(self, run: Run, use: ModelLease, prompt_ids: tuple[int, ...], now: float) -> None:
        self.run = run
        self.use = use
        self.cold = use.engine is None
        """Does it wait for its model, and for a slot only then?"""
        self.journal = Journal(len(run.emitted_ids))
        self.journal.prompt_ids = prompt_ids
        self.deadline = now + run.deadline_s
        self.slot: asyncio.Future[None] | None = None
        """Set while it waits for one."""
        self.task: asyncio.Task[None] | None = None
        self.ends: list[End] = []
        self.begun = False
        """Has the engine begun with it?"""
        self.handed = self.journal.base
        """Output tokens that some reader has taken, those of runs before this one included."""
        self.kept = False
        """Is what it is settled with on the disk already?"""
        self.error: TetherError | None = None
        self.ending: Ending | None = None
        self.finished_at: float | None = None
        self.left_at: float | None = None
        """Since when no gateway listens, after one was lost."""
        self.placed_by = ""
        """The node whose gateway has sent it."""
        self.gateway: Address | None = None
        """Which has sent it."""
        self.delivered: asyncio.Future[None] | None = None
        """Set while the finished answer is still on its way to a reader."""
        self.done_reading = False
        """Has a reader taken all of it?"""

    @property
    def running(self) -> bool:
        """Has it no end yet?"""
        return self.finished_at is None

    def same(self, run: Run) -> bool:
        """Is `run` the order that this run follows?"""
        return (
            self.run.fencing_token == run.fencing_token
            and self.error is None
            and self.ending is None
            and self.journal.base == len(run.emitted_ids)
        )

    def generation(self) -> Generation:
        """What the engine is to compute, now that the prompt's ids are known. A tenant's prompts
        are told from others' by no time that they save."""
        run = self.run
        return Generation(
            prompt_ids=self.journal.prompt_ids,
            emitted_ids=run.emitted_ids,
            sampling=run.sampling,
            scope=run.job.tenant_id,
        )

    def news(self, now: float) -> bool:
        """Wakes the readers that should read now; whether others are left for later."""
        later = False
        for end in self.ends:
            waiter = end.waiter
            if waiter is not None:
                if end.due(now):
                    end.wake()
                elif end.pending:
                    later = True
        return later

    def wake(self) -> None:
        """Wakes all readers."""
        for end in self.ends:
            end.wake()

    def delivered_or_not(self) -> None:
        """Nobody need wait any longer for the last chunk to leave."""
        if self.delivered is not None and not self.delivered.done():
            self.delivered.set_result(None)

    @property
    def said_before(self) -> Iterator[tuple[tuple[int, ...], str]]:
        """The pieces of the answer that were there when it began, as pieces of a journal."""
        ids, at = self.run.emitted_ids, 0
        for tokens, text in self.run.said:
            yield ids[at : at + tokens], text
            at += tokens

    def packed(self, packing: AnswerPacking) -> AbstractAsyncContextManager[bytes]:
        """Its answer for the store; empty if that isn't to keep it, or not all of it is known."""
        journal, run = self.journal, self.run
        told = sum(tokens for tokens, _ in run.said)
        if run.job.keep and journal.finish is not None and told == journal.base:
            return packing.of(journal, self.said_before)
        return nullcontext(b"")

    def break_off(self, ending: Ending) -> None:
        """End it; its task does the rest. Safe to call twice."""
        if self.running and self.ending is None:
            self.ending = ending
            if self.task is not None:
                self.task.cancel()

    def explain(self) -> TetherError:
        """What a reader is told of a run that was broken off."""
        match self.ending:
            case Ending.LATE if self.cold:
                return DeadlineExceeded(
                    f"{self.run.job.model_ref} was not loaded here by the request's deadline"
                )
            case Ending.LATE:
                return DeadlineExceeded("the answer was not complete by its deadline")
            case Ending.STOPPING:
                return Draining("the worker is stopping; another one can continue")
            case Ending.SUPERSEDED:
                return AnswerGone("the run was moved; ask where it is now")
            case _:
                return Cancelled("the run was cancelled")

    def settle(self) -> Settle | None:
        """How the job is closed; None where that is somebody else's business: a run that moves
        on, and a fault, after which the gateway decides whether there is another attempt."""
        if self.journal.finish is not None:
            return self.completed(self.journal.finish)
        if self.ending is Ending.CANCELLED:
            return self._settle(Outcome.CANCELLED, AnswerEnd.LEFT)
        if self.ending is Ending.LATE:
            late = self._settle(Outcome.FAILED, AnswerEnd.LATE)
            return replace(late, error_code=DeadlineExceeded.code)
        return None

    def completed(self, finish: Finish) -> Settle:
        """How the job is closed by an answer that ends so."""
        settle = self._settle(Outcome.COMPLETED, AnswerEnd.COMPLETED)
        return replace(settle, finish=finish, delivered=self.done_reading)

    def _settle(self, outcome: Outcome, end: AnswerEnd) -> Settle:
        run, journal = self.run, self.journal
        answer = AnswerSoFar(
            counted=self.counted(),
            # Who still listens at the end gets all that there is.
            delivered=journal.tokens if self.ends else self.handed,
            begun=self.begun,
            streamed=run.stream,
        )
        usage = billed(end, answer)
        return Settle(
            job_id=run.job.job_id,
            fencing_token=run.fencing_token,
            outcome=outcome,
            usage=usage,
            emitted=usage.completion_tokens,
        )

    def counted(self) -> Usage:
        """What was computed so far."""
        journal = self.journal
        if journal.finish is not None:
            return journal.usage
        return Usage(prompt_tokens=len(journal.prompt_ids), completion_tokens=journal.tokens)

    def computed(self) -> Computed | None:
        """What its gateway is told of an answer that was broken off; None of a whole one."""
        if self.journal.finish is not None:
            return None
        return Computed(job_id=self.run.job.job_id, usage=self.counted())

    def sweep(self, now: float, grace_s: float) -> None:
        """End it at its deadline, or when no gateway has come back for so many seconds."""
        if now >= self.deadline:
            self.break_off(Ending.LATE)
        elif self.left_at is not None and now - self.left_at >= grace_s:
            self.break_off(Ending.CANCELLED)


class End(Reader):
    """A reader with a pace, and somebody who waits for it."""

    __slots__ = ("_coalescer", "_execution", "waiter")

    def __init__(
        self,
        execution: ModelRun,
        *,
        from_seq: int,
        whole: bool,
        split_at: int,
        window_s: float,
        characters: int,
    ) -> None:
        super().__init__(
            execution.journal,
            from_seq,
            whole=whole,
            split_at=split_at,
            # only who may have to continue needs the prompt's ids; a whole answer comes at its end
            with_prompt=not whole,
        )
        self._execution = execution
        self._coalescer = None if whole else Coalescer(window_s, characters)
        self.waiter: asyncio.Future[None] | None = None
        execution.ends.append(self)
        execution.left_at = None

    def due(self, now: float) -> bool:
        """Should what there is be read now?"""
        execution = self._execution
        if execution.finished_at is not None or execution.journal.finish is not None:
            return True
        coalescer = self._coalescer
        return (
            coalescer is not None
            and self.pending
            and coalescer.due(execution.journal.characters - self.characters, now)
        )

    async def item(
        self, loop: asyncio.AbstractEventLoop, later: Callable[[ModelRun], None]
    ) -> Chunk | Completed:
        """The next item, when it is due. `later` is told when something waits for its time.

        Raises:
            TetherError: the run ended without an answer.
        """
        execution = self._execution
        while True:
            now = loop.time()
            if not self.due(now):
                if self.pending:
                    later(execution)
                self.waiter = loop.create_future()
                try:
                    await self.waiter
                finally:
                    self.waiter = None
                now = loop.time()
            item = self.next()
            if item is not None:
                if self._coalescer is not None:
                    self._coalescer.left(now)
                execution.handed = max(execution.handed, item.seq + len(item.token_ids))
                return item
            if execution.error is not None:
                raise execution.error.anew()

    def wake(self) -> None:
        """Let it look."""
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    def leave(self) -> None:
        """It reads no more."""
        execution = self._execution
        if self in execution.ends:
            execution.ends.remove(self)
        if not execution.ends:
            execution.delivered_or_not()
