"""What a gateway asks the scheduler, and what it then tells the worker: begin, continue, or let it
listen."""

from __future__ import annotations

from tether.contracts import Attach, Infer, Place, Placed, Run, Sampling, Slo
from tether.core.journal import Journal


def place(
    infer: Infer,
    *,
    attempt: int,
    avoid: tuple[str, ...],
    job_id: str,
    tenant_id: str,
    model_ref: str,
    sampling: Sampling,
    deadline_s: float,
    claim: int,
    held: int,
    lost: int,
    slo: Slo,
) -> Place:
    """A worker for the next attempt."""
    return Place(
        job_id=job_id,
        tenant_id=tenant_id,
        retry_token=infer.retry_token,
        fingerprint=infer.fingerprint,
        model_ref=model_ref,
        max_tokens=sampling.max_tokens,
        deadline_s=deadline_s,
        attempt=attempt,
        avoid=avoid,
        traceparent=infer.traceparent,
        claim=claim,
        held=held,
        lost=lost,
        slo=slo,
        again=not held and (infer.again or infer.explicit_token or infer.from_seq > 0),
    )


def attach(infer: Infer, placed: Placed, journal: Journal) -> Attach:
    """To a job that runs there, or did; from the first token that `journal` lacks."""
    return Attach(
        job_id=placed.job_id,
        from_seq=journal.tokens,
        stream=infer.stream,
        split_at=infer.from_seq,
        # only a run under this fence can be settled; an answer that is settled is one anyway
        fence=placed.fence if placed.known == "running" else 0,
    )


def run(
    infer: Infer,
    placed: Placed,
    journal: Journal,
    *,
    tenant_id: str,
    model_ref: str,
    sampling: Sampling,
    deadline_s: float,
) -> Run:
    """From the beginning, or from what `journal` holds on."""
    return Run(
        job_id=placed.job_id,
        tenant_id=tenant_id,
        fence=placed.fence,
        model_ref=model_ref,
        input=infer.input,
        sampling=sampling,
        deadline_s=deadline_s,
        stream=infer.stream,
        # without the prompt's ids nothing of the answer is known either
        prompt_ids=journal.prompt_ids,
        emitted_ids=journal.emitted_ids if journal.prompt_ids else (),
        traceparent=infer.traceparent,
        split_at=infer.from_seq,
    )
