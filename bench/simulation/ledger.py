"""The semantics of actors/stores/queries.sql in memory: jobs, leases, fencing tokens, retry tokens.

Each method is one statement; its conditions stand in the order of the SQL.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from actors.contracts import (
    Assignment,
    BreakerState,
    JobState,
    Outcome,
    Reserve,
    Reserved,
    Settle,
    Usage,
)
from actors.errors import KeyReused
from actors.stores.verdict import Verdict

GRACE_S = 2.0  # of a lease, beyond its request's deadline; more than a settle takes to be said


@dataclass(slots=True)
class Job:
    id: str
    tenant_id: str
    retry_token: str
    fingerprint: bytes
    worker_id: str
    worker_address: str
    attempt: int
    claim_token: int
    led: bool = False
    """Is the claim that of one who was led to it?"""
    fencing_token: int = 1
    outcome: Outcome | None = None
    """None while it runs."""
    usage: Usage = field(default_factory=Usage)
    paid: bool = False
    """Its answer was completed, and lost before its client had it: once more is no second bill."""


@dataclass(slots=True)
class Lease:
    fencing_token: int
    expires_at: float


@dataclass(slots=True)
class Bill:
    """A row of the ledger. `times` is what PostgreSQL doesn't count: how often an answer in full
    was billed."""

    usage: Usage
    outcome: Outcome
    times: int = 0


Key = tuple[str, str]


class Ledger:
    """The database. It outlives all processes; a statement happens or it doesn't."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.by_token: dict[Key, Job] = {}
        self.leases: dict[str, Lease] = {}
        self.bills: dict[Key, Bill] = {}
        self.answers: dict[str, bytes] = {}
        self.breakers: dict[tuple[str, str], BreakerState] = {}

    def reserve(self, m: Reserve, now: float) -> Reserved:
        """`settle_and_reserve` for a reserve, and `contest` where it finds the token taken.

        Raises:
            KeyReused: the token belongs to another body.
        """
        key = (m.job.tenant_id, m.job.retry_token)
        held = self.by_token.get(key)
        if held is None and not m.worker_id:
            return self._free(m)
        if held is None and m.job.job_id not in self.jobs:
            held = Job(
                m.job.job_id,
                *key,
                m.job.fingerprint,
                m.worker_id,
                m.worker_address,
                m.ownership.attempt,
                m.ownership.claim_token,
            )
            self.jobs[held.id] = self.by_token[key] = held
            self._lease(held, m, now)
            return self._stands(held, JobState.NEW)
        assert held is not None, "two tokens drew one job id"
        verdict = self.contest(m, held)
        if verdict is Verdict.CONFLICT:
            raise KeyReused.told()
        if verdict is Verdict.FREE:
            return self._free(m)
        if verdict is Verdict.GIVE:
            lost = m.ownership.lost_fencing_token == held.fencing_token
            held.paid = held.paid or (held.outcome is Outcome.COMPLETED and lost)
            held.outcome, held.led = None, False
            held.attempt, held.claim_token = m.ownership.attempt, m.ownership.claim_token
            held.fencing_token, held.usage = self.next_token(held), Usage()
            held.worker_id, held.worker_address = m.worker_id, m.worker_address
            self._lease(held, m, now)
        if verdict is Verdict.LED:
            held.claim_token, held.led = m.ownership.claim_token, True
        return self._stands(held, verdict.state)

    def contest(self, m: Reserve, held: Job) -> Verdict:
        """The verdict of `contest`, condition for condition."""
        own, same = m.ownership, held.id == m.job.job_id
        over = held.outcome is not None
        lost = own.lost_fencing_token == held.fencing_token
        ours = own.claim_token != 0 and held.claim_token == own.claim_token and not held.led
        holder = (
            own.held_claim_token != 0
            and held.claim_token == own.held_claim_token
            and (same or not held.led)
        )
        if held.fingerprint != m.job.fingerprint:
            return Verdict.CONFLICT
        if held.outcome is Outcome.COMPLETED and not (lost and m.worker_id):
            return Verdict.COMPLETED
        if not m.worker_id and (over or same or ours or holder):
            return Verdict.FREE
        if over:
            return Verdict.GIVE
        if own.claim_token == 0:
            if not same or own.attempt < held.attempt:
                return Verdict.RUNNING
            return Verdict.GIVE if own.attempt > held.attempt else Verdict.OURS
        if ours:
            return Verdict.OURS
        if holder:
            return Verdict.GIVE
        return Verdict.RUNNING if same or own.held_claim_token else Verdict.LED

    def next_token(self, job: Job) -> int:
        """The fencing token of a job that is given away anew."""
        return job.fencing_token + 1

    def settle(self, m: Settle) -> bool:
        """`settle_and_reserve` for a settle; whether it was the one that closed the job."""
        job = self.jobs.get(m.job_id)
        if job is None or not self.open_for(m, job):
            return False
        job.outcome, job.usage = m.outcome, m.usage
        if m.answer:
            self.answers[job.id] = m.answer
        self.leases.pop(job.id, None)
        if m.outcome in (Outcome.COMPLETED, Outcome.CANCELLED):
            key = (job.tenant_id, job.retry_token)
            bill = self.bills.get(key)
            times = 0 if bill is None else bill.times
            if m.outcome is Outcome.COMPLETED:
                times = 1 if job.paid else times + 1
            if bill is None or m.usage.completion_tokens >= bill.usage.completion_tokens:
                self.bills[key] = Bill(m.usage, m.outcome, times)
        return True

    def open_for(self, m: Settle, job: Job) -> bool:
        """The conditions of `closed` and of `amend`."""
        if job.fencing_token == m.fencing_token and job.outcome in (None, Outcome.EXPIRED):
            return True
        complete = m.delivered and m.outcome is Outcome.COMPLETED
        answered = job.outcome is Outcome.COMPLETED
        return complete and m.fencing_token <= job.fencing_token and not answered

    def sweep(self, now: float) -> int:
        """Expire what nobody settled; how many."""
        expired = 0
        for job_id, lease in list(self.leases.items()):
            job = self.jobs.get(job_id)
            if lease.expires_at > now or job is None or job.fencing_token != lease.fencing_token:
                continue
            if job.outcome is None:
                job.outcome = Outcome.EXPIRED
                del self.leases[job_id]
                expired += 1
        return expired

    def _lease(self, job: Job, m: Reserve, now: float) -> None:
        self.leases[job.id] = Lease(job.fencing_token, now + m.deadline_s + GRACE_S)

    @staticmethod
    def _free(m: Reserve) -> Reserved:
        return Reserved(
            assignment=Assignment(
                job_id=m.job.job_id,
                worker_id="",
                worker_address="",
                fencing_token=0,
                state=JobState.FREE,
            )
        )

    @staticmethod
    def _stands(job: Job, state: JobState) -> Reserved:
        return Reserved(
            assignment=Assignment(
                job_id=job.id,
                worker_id=job.worker_id,
                worker_address=job.worker_address,
                fencing_token=job.fencing_token,
                state=state,
                claim_token=job.claim_token,
            )
        )
