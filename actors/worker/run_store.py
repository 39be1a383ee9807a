"""The runs that a worker holds: those that run, and the latest that are over."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from actors.errors import AnswerGone
from actors.worker.run import ModelRun


class RunStore:
    """By job. Finished ones are kept for `keep_s`, at most `kept`, with `kept_tokens` in all."""

    def __init__(self, kept: int, kept_tokens: int, keep_s: float) -> None:
        self._kept = kept
        self._kept_tokens = kept_tokens
        self._keep_s = keep_s
        self._running: dict[str, ModelRun] = {}
        self._finished: OrderedDict[str, ModelRun] = OrderedDict()
        self.tokens = 0

    def __len__(self) -> int:
        return len(self._running) + len(self._finished)

    @property
    def running(self) -> Iterable[ModelRun]:
        return self._running.values()

    @property
    def finished(self) -> int:
        return len(self._finished)

    def find(self, job_id: str, fencing_token: int = 0) -> ModelRun | None:
        """The run of this job, if it is held; with a `fencing_token`, only one under that: what
        another one says could not be settled any more."""
        held = self._running.get(job_id) or self._finished.get(job_id)
        return held if held is None or fencing_token in (0, held.run.fencing_token) else None

    def check_token(self, job_id: str, fencing_token: int) -> ModelRun | None:
        """What is held of a job that is to run under `fencing_token`.

        Raises:
            AnswerGone: it was given away again since.
        """
        held = self.find(job_id)
        if held is not None and fencing_token < held.run.fencing_token:
            raise AnswerGone(
                f"job {job_id} was given to this worker under fencing token "
                f"{held.run.fencing_token}; {fencing_token} is stale"
            )
        return held

    def add(self, execution: ModelRun) -> None:
        """A run begins; it takes the place of an older one of its job."""
        job_id = execution.run.job.job_id
        self._forget(job_id)
        self._running[job_id] = execution

    def over(self, execution: ModelRun, *, keep: bool) -> None:
        """A run has ended. A fault isn't kept: nobody can read from it."""
        job_id = execution.run.job.job_id
        if self._running.get(job_id) is not execution:
            return
        del self._running[job_id]
        if not keep:
            return
        self._finished[job_id] = execution
        self.tokens += _tokens(execution)
        while self._finished and (
            len(self._finished) > self._kept or self.tokens > self._kept_tokens
        ):
            self._forget(next(iter(self._finished)))

    def sweep(self, now: float) -> None:
        """Forget what was kept long enough."""
        while self._finished:
            job_id, execution = next(iter(self._finished.items()))
            assert execution.finished_at is not None
            if now - execution.finished_at < self._keep_s:
                return
            self._forget(job_id)

    def _forget(self, job_id: str) -> None:
        execution = self._finished.pop(job_id, None)
        if execution is not None:
            self.tokens -= _tokens(execution)


def _tokens(execution: ModelRun) -> int:
    journal = execution.journal
    return journal.tokens + len(journal.prompt_ids)
