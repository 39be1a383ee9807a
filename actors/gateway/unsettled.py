"""Answers whose worker has yet to settle them: if it dies first, the gateway does."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from actors.contracts import Settle
from actors.gateway.session import SessionKey


class Unsettled(NamedTuple):
    """`key` is that of the session whose answer is to be kept; None if it isn't."""

    settle: Settle
    key: SessionKey | None = None


class UnsettledAnswers:
    """The newest `bound` answers, for `keep_s`. A worker settles within milliseconds of its
    last chunk, so what is older is settled or will be told by the worker itself."""

    def __init__(self, bound: int, keep_s: float) -> None:
        self._bound = bound
        self._keep_s = keep_s
        self._by_job: OrderedDict[str, tuple[str, Unsettled, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._by_job)

    def add(self, worker_address: str, unsettled: Unsettled, now: float) -> None:
        """An answer came from there."""
        by_job = self._by_job
        by_job[unsettled.settle.job_id] = (worker_address, unsettled, now)
        if len(by_job) > self._bound:
            by_job.popitem(last=False)

    def take(self, worker_address: str) -> list[Unsettled]:
        """That worker is gone: what came from it, forgotten here."""
        taken = [
            unsettled
            for address, unsettled, _ in self._by_job.values()
            if address == worker_address
        ]
        for unsettled in taken:
            del self._by_job[unsettled.settle.job_id]
        return taken

    def sweep(self, now: float) -> None:
        """Forget what is old."""
        by_job = self._by_job
        while by_job:
            job_id = next(iter(by_job))
            if now - by_job[job_id][2] < self._keep_s:
                return
            del by_job[job_id]
