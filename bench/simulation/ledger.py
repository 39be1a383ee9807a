"""The semantics of tether/stores/queries.sql in memory: jobs, leases, fences, retry tokens.

Each method is one statement; its conditions stand in the order of the SQL.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tether.contracts import BreakerState, Outcome, Reserve, Reserved, Settle, Usage
from tether.errors import Conflict

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
    claim: int
    fence: int = 1
    state: str = "running"
    outcome: str | None = None
    usage: Usage = field(default_factory=Usage)
    paid: bool = False
    """Its answer was completed, and lost before its client had it: once more is no second bill."""


@dataclass(slots=True)
class Lease:
    fence: int
    expires_at: float


@dataclass(slots=True)
class Bill:
    """A row of the ledger. `times` is what PostgreSQL doesn't count: how often an answer in full
    was billed."""

    usage: Usage
    outcome: str
    times: int = 0


Key = tuple[str, str]


class Ledger:
    """The database. It outlives all processes; a statement happens or it doesn't."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.by_token: dict[Key, Job] = {}
        self.leases: dict[str, Lease] = {}
        self.bills: dict[Key, Bill] = {}
        self.breakers: dict[tuple[str, str], BreakerState] = {}

    def reserve(self, m: Reserve, now: float) -> Reserved:
        """`settle_and_reserve` for a reserve, and `contest` where it finds the token taken.

        Raises:
            Conflict: the token belongs to another body.
        """
        key = (m.tenant_id, m.retry_token)
        held = self.by_token.get(key)
        if held is None and not m.worker_id:
            return Reserved(job_id=m.job_id, worker_id="", worker_address="", fence=0)
        if held is None and m.job_id not in self.jobs:
            held = Job(
                m.job_id, *key, m.fingerprint, m.worker_id, m.worker_address, m.attempt, m.claim
            )
            self.jobs[held.id] = self.by_token[key] = held
            self._lease(held, m, now)
            return self._given(m, held)
        assert held is not None, "two tokens drew one job id"
        verdict = self.contest(m, held)
        if verdict == "conflict":
            raise Conflict("this Idempotency-Key was used for another request")
        if verdict == "give":
            held.paid = held.paid or (held.outcome == "completed" and m.lost == held.fence)
            del self.jobs[held.id]
            held.id, held.state, held.outcome = m.job_id, "running", None
            held.attempt, held.claim = m.attempt, m.claim
            held.fence, held.usage = self.next_fence(held), Usage()
            held.worker_id, held.worker_address = m.worker_id, m.worker_address
            self.jobs[held.id] = held
            self._lease(held, m, now)
            return self._given(m, held)
        if verdict == "free":
            return Reserved(job_id=m.job_id, worker_id="", worker_address="", fence=0)
        if verdict == "led":
            held.claim, verdict = m.claim, "running"
        return Reserved(
            job_id=held.id,
            worker_id=held.worker_id,
            worker_address=held.worker_address,
            fence=held.fence,
            known="" if verdict == "ours" else verdict,
            claim=held.claim,
        )

    def contest(self, m: Reserve, held: Job) -> str:
        """The verdict of `contest`, word for word."""
        if held.fingerprint != m.fingerprint:
            return "conflict"
        if held.outcome == "completed" and (m.lost != held.fence or not m.worker_id):
            return "completed"
        if not m.worker_id and (held.state == "settled" or held.id == m.job_id):
            return "free"
        if held.state == "settled":
            return "give"
        if m.claim == 0:
            if held.id != m.job_id or m.attempt < held.attempt:
                return "running"
            return "give" if m.attempt > held.attempt else "ours"
        if held.claim == m.claim and held.id == m.job_id:
            return "ours"
        if held.id == m.job_id:
            return "give" if held.claim == m.held and m.held != 0 else "running"
        return "led" if m.held == 0 else "running"

    def next_fence(self, job: Job) -> int:
        """Of a job that is given away anew."""
        return job.fence + 1

    def settle(self, m: Settle) -> bool:
        """`settle_and_reserve` for a settle; whether it was the one that closed the job."""
        job = self.jobs.get(m.job_id)
        if job is None or not self.open_for(m, job):
            return False
        job.state, job.outcome, job.usage = "settled", m.outcome.value, m.usage
        self.leases.pop(job.id, None)
        if m.outcome in (Outcome.COMPLETED, Outcome.CANCELLED):
            key = (job.tenant_id, job.retry_token)
            bill = self.bills.get(key)
            times = 0 if bill is None else bill.times
            if m.outcome is Outcome.COMPLETED:
                times = 1 if job.paid else times + 1
            if bill is None or m.usage.completion_tokens >= bill.usage.completion_tokens:
                self.bills[key] = Bill(m.usage, m.outcome.value, times)
        return True

    def open_for(self, m: Settle, job: Job) -> bool:
        """The condition of `closed`."""
        if job.fence == m.fence and job.state == "running":
            return True
        complete = m.delivered and m.outcome is Outcome.COMPLETED
        return complete and m.fence <= job.fence and job.outcome != "completed"

    def sweep(self, now: float) -> int:
        """Expire what nobody settled; how many."""
        expired = 0
        for job_id, lease in list(self.leases.items()):
            job = self.jobs.get(job_id)
            if lease.expires_at > now or job is None or job.fence != lease.fence:
                continue
            if job.state == "running":
                job.state, job.outcome = "settled", "expired"
                del self.leases[job_id]
                expired += 1
        return expired

    def _lease(self, job: Job, m: Reserve, now: float) -> None:
        self.leases[job.id] = Lease(job.fence, now + m.deadline_s + GRACE_S)

    @staticmethod
    def _given(m: Reserve, job: Job) -> Reserved:
        return Reserved(
            job_id=job.id,
            worker_id=m.worker_id,
            worker_address=m.worker_address,
            fence=job.fence,
            claim=job.claim,
        )
