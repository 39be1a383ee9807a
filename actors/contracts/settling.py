"""The messages that keep a job alive, and those that close it. Pure."""

from __future__ import annotations

from actors.contracts.inference import Outcome, Usage
from supervision.contracts.contract import Contract, Value


class HeldJob(Value, frozen=True):
    """A job that somebody has in hand, under a fencing token, with `emitted` output tokens so
    far."""

    job_id: str
    fencing_token: int
    emitted: int = 0


class Renew(Contract, frozen=True):
    """Worker or gateway → reservation, every few seconds: these jobs are alive, so their leases are
    to go on. A worker of another node renews those of its own node's workers alone."""

    jobs: tuple[HeldJob, ...]


class Renewed(Contract, frozen=True):
    """The jobs of which there is no such lease (any more): they were settled, given to another
    worker, or swept."""

    gone: tuple[str, ...] = ()


class Settle(Contract, frozen=True):
    """Worker (or, when it died after the answer, gateway) → reservation: close job, usage,
    ledger and lease in one transaction. Idempotent; only the current `fencing_token` counts.

    `delivered`: the answer is complete, and a reader has taken it to its end. That counts under an
    older fencing token, and after another end of the job, unless it was completed before: what was
    answered is billed, whatever somebody else has made of the job meanwhile. `usage` is what is
    billed: nothing of what we broke (see `actors.core.outcome_billing`). `emitted` are its output
    tokens, which are billed though the job has failed. `answer` is the
    finished one, only if the job's key says `keep`."""

    job_id: str
    fencing_token: int
    outcome: Outcome
    usage: Usage
    finish: str = ""
    error_code: str = ""
    delivered: bool = False
    emitted: int = 0
    answer: bytes = b""


class Settled(Contract, frozen=True):
    """`first` is false when the job was settled before, or the fencing token was stale."""

    job_id: str
    first: bool
