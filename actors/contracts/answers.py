"""The messages about finished answers that are kept. Pure."""

from __future__ import annotations

from supervision.contracts.contract import Contract, Value


class Billed(Value, frozen=True):
    """What a job was billed so far: the sums of its `entries` entries in the ledger. `micros` are
    micro-units of `currency`, which is empty where it has no price."""

    job_id: str
    entries: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    output_tokens: int = 0
    micros: int = 0
    currency: str = ""


class FetchAnswer(Contract, frozen=True):
    """Gateway → reservation, asked: the answer of a job that was completed, which must be one of
    this tenant. Answered with `AnswerFetched`. With `only_bill` the answer isn't wanted."""

    job_id: str
    tenant_id: str
    only_bill: bool = False


class AnswerFetched(Contract, frozen=True):
    """`answer` is what `Settle` has brought, empty if it isn't kept (any more). Then `billed` says
    what the job has cost; None if there is no such job."""

    answer: bytes = b""
    billed: Billed | None = None
