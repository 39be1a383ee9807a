"""A worker as the scheduler sees it: what it last said, and the jobs that were placed on it since.
Pure."""

from __future__ import annotations

from actors.contracts import HealthReport
from supervision.policies import Breaker, Ended


class SeatedJob:
    """A job on a seat. `fencing_token` is 0, and `owner` None, before it is reserved for that
    gateway; `asked_as` is the id that was drawn for it, before it was known whose job its retry
    token is; `breaker` was entered with `ticket`."""

    __slots__ = ("asked_as", "at", "breaker", "deadline", "fencing_token", "owner", "ticket")

    def __init__(self, at: float, deadline: float, breaker: Breaker | None, ticket: int) -> None:
        self.at = at
        self.deadline = deadline
        self.fencing_token = 0
        self.owner: object = None
        self.asked_as = ""
        self.breaker = breaker
        self.ticket = ticket

    def left(self, ended: Ended, now: float) -> None:
        """It is over, and that says something about the worker, or nothing."""
        if self.breaker is not None:
            self.breaker.leave(self.ticket, ended, now)


class Seat:
    """One start of one worker, with the jobs that were placed on it."""

    __slots__ = (
        "address",
        "breakers",
        "cold",
        "elsewhere",
        "jobs",
        "loading",
        "models",
        "region_bonus",
        "report",
        "shed_until",
        "slots",
        "suspect",
        "worker_id",
    )

    def __init__(self, report: HealthReport) -> None:
        self.worker_id = report.worker_id
        self.address = report.address
        self.jobs: dict[str, SeatedJob] = {}  # by id, in the order of placing
        self.breakers: dict[str, Breaker] = {}
        """By model; they are shared with the worker's other starts."""
        self.shed_until = 0.0
        self.suspect = False
        self.elsewhere = 0
        """What schedulers of other nodes had there when it reported."""
        self.see(report)

    @property
    def load(self) -> int:
        """Jobs there, of whomever."""
        return len(self.jobs) + self.elsewhere

    def see(self, report: HealthReport) -> None:
        """A newer report of the same start."""
        self.report = report
        self.slots = report.slots
        self.models = frozenset(report.models)
        self.loading = frozenset(report.loading) - self.models
        self.cold = self.loading.union(report.loadable) - self.models
        self.region_bonus = 0.0
