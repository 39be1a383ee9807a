"""What a gateway tells the worker of a placement: begin, continue, or let it listen."""

from __future__ import annotations

from tether.contracts import Attach, Infer, Placed, Run, Sampling
from tether.core.journal import Journal


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
