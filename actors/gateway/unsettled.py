"""Answers whose worker has yet to settle them: if it dies first, the gateway does."""

from __future__ import annotations

from collections import OrderedDict

from actors.contracts import Settle


class UnsettledAnswers:
    """The newest `bound` answers, for `keep_s`. A worker settles within milliseconds of its
    last chunk, so what is older is settled or will be told by the worker itself."""

    def __init__(self, bound: int, keep_s: float) -> None:
        self._bound = bound
        self._keep_s = keep_s
        self._by_job: OrderedDict[str, tuple[str, Settle, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._by_job)

    def add(self, worker_address: str, settle: Settle, now: float) -> None:
        """An answer came from there."""
        by_job = self._by_job
        by_job[settle.job_id] = (worker_address, settle, now)
        if len(by_job) > self._bound:
            by_job.popitem(last=False)

    def take(self, worker_address: str) -> list[Settle]:
        """That worker is gone: what came from it, forgotten here."""
        taken = [
            settle for address, settle, _ in self._by_job.values() if address == worker_address
        ]
        for settle in taken:
            del self._by_job[settle.job_id]
        return taken

    def sweep(self, now: float) -> None:
        """Forget what is old."""
        by_job = self._by_job
        while by_job:
            job_id = next(iter(by_job))
            if now - by_job[job_id][2] < self._keep_s:
                return
            del by_job[job_id]
