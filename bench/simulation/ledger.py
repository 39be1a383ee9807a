"""The semantics of actors/stores/queries.sql in memory: jobs, leases, fencing tokens, retry tokens.

Each method is one statement; its conditions stand in the order of the SQL.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from actors.contracts import (
    Assignment,
    BreakerState,
    HeldJob,
    JobState,
    Outcome,
    Reserve,
    Reserved,
    Settle,
    Usage,
)
from actors.errors import KeyReused
from actors.stores.bill import is_billed
from actors.stores.verdict import Verdict

LEASE_S = 1.2  # of a lease that isn't renewed
RENEW_S = 0.4


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
    attempts: dict[int, str] = field(default_factory=dict)
    """The nodes that have had it, by fencing token."""
    paid: bool = False
    """Its answer was completed, and lost before its client had it: once more is no second bill."""


@dataclass(slots=True)
class Lease:
    fencing_token: int
    expires_at: float


@dataclass(slots=True)
class Bill:
    """The entries of a job: prompt and output tokens of each. `times` is what PostgreSQL doesn't
    count: how often an answer in full was billed."""

    outcome: Outcome
    entries: list[tuple[int, int]] = field(default_factory=list)
    times: int = 0

    @property
    def usage(self) -> Usage:
        """Their sum."""
        return Usage(
            prompt_tokens=sum(prompt for prompt, _ in self.entries),
            completion_tokens=sum(output for _, output in self.entries),
        )

    def amount_to(self, usage: Usage) -> None:
        """A charge, or a correction by the difference; no entry where there is none."""
        before = self.usage
        entry = (
            usage.prompt_tokens - before.prompt_tokens,
            usage.completion_tokens - before.completion_tokens,
        )
        if not self.entries or entry != (0, 0):
            self.entries.append(entry)


Key = tuple[str, str]


def node_of(worker_address: str) -> str:
    """The node of an address."""
    return worker_address.partition("/")[0]


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
            self._lease(held, now)
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
            held.attempts[held.fencing_token] = node_of(held.worker_address)
            held.outcome, held.led = None, False
            held.attempt, held.claim_token = m.ownership.attempt, m.ownership.claim_token
            held.fencing_token, held.usage = self.next_token(held), Usage()
            held.worker_id, held.worker_address = m.worker_id, m.worker_address
            self._lease(held, now)
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

    def settle(self, m: Settle, node: str = "") -> bool:
        """`settle_and_reserve` for a settle, and `amend` for what that leaves; whether it was the
        one that closed the job. `node`: the other one that it comes from."""
        job = self.jobs.get(m.job_id)
        if job is None or not self.open_for(m, job) or not self.is_theirs(m, job, node):
            return False
        job.outcome, job.usage = m.outcome, m.usage
        if m.answer:
            self.answers[job.id] = m.answer
        self.leases.pop(job.id, None)
        if is_billed(m):
            key = (job.tenant_id, job.retry_token)
            bill = self.bills.setdefault(key, Bill(m.outcome))
            if m.outcome is Outcome.COMPLETED:
                bill.times = 1 if job.paid else bill.times + 1
            if not bill.entries or m.usage.completion_tokens >= bill.usage.completion_tokens:
                bill.amount_to(m.usage)
                bill.outcome = m.outcome
        return True

    def open_for(self, m: Settle, job: Job) -> bool:
        """The conditions of `closed` and of `amend`."""
        if job.fencing_token == m.fencing_token and job.outcome in (None, Outcome.EXPIRED):
            return True
        complete = m.delivered and m.outcome is Outcome.COMPLETED
        answered = job.outcome is Outcome.COMPLETED
        return complete and m.fencing_token <= job.fencing_token and not answered

    @staticmethod
    def is_theirs(m: Settle, job: Job, node: str) -> bool:
        """A worker of another node settles what is with its node, or was under that token."""
        if node in ("", node_of(job.worker_address)):
            return True
        return job.attempts.get(m.fencing_token) == node

    def renew(self, held: HeldJob, now: float, node: str = "") -> bool:
        """`renew`: whether there is such a lease."""
        job, lease = self.jobs.get(held.job_id), self.leases.get(held.job_id)
        if job is None or lease is None or lease.fencing_token != held.fencing_token:
            return False
        if node not in ("", node_of(job.worker_address)):
            return False
        lease.expires_at = now + LEASE_S
        return True

    def sweep(self, now: float) -> int:
        """Expire what nobody settled, and delete leases of no running job; how many jobs."""
        expired = 0
        for job_id, lease in list(self.leases.items()):
            if lease.expires_at > now:
                continue
            job = self.jobs.get(job_id)
            if job is not None and job.fencing_token == lease.fencing_token and not job.outcome:
                job.outcome = Outcome.EXPIRED
                expired += 1
            del self.leases[job_id]
        return expired

    def _lease(self, job: Job, now: float) -> None:
        self.leases[job.id] = Lease(job.fencing_token, now + LEASE_S)

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
