"""The messages of a request to the scheduler and then to the worker: begin, continue, or listen."""

from __future__ import annotations

from actors.contracts import (
    Assignment,
    Attach,
    Infer,
    JobKey,
    JobState,
    Maximum,
    Ownership,
    Place,
    Run,
    Sampling,
    Slo,
)
from actors.core.ids import job_id
from actors.core.journal import Journal


def new_job(infer: Infer, tenant_id: str, model_ref: str, key_id: str) -> JobKey:
    """The name of a job that may be new, under an id drawn for it."""
    return JobKey(
        job_id=job_id(),
        tenant_id=tenant_id,
        retry_token=infer.retry_token,
        fingerprint=infer.fingerprint,
        model_ref=model_ref,
        endpoint=infer.endpoint,
        key_id=key_id,
        keep=infer.explicit_token,
    )


def place(
    infer: Infer,
    job: JobKey,
    ownership: Ownership,
    *,
    avoid: tuple[str, ...],
    sampling: Sampling,
    deadline_s: float,
    slo: Slo,
    most: Maximum,
) -> Place:
    """A worker for the next attempt. Until this gateway has asked for the job once, there may be
    one that another gateway has begun."""
    returns = infer.is_resume or infer.explicit_token or infer.from_seq > 0
    return Place(
        job=job,
        max_tokens=sampling.max_tokens,
        deadline_s=deadline_s,
        ownership=ownership,
        avoid=avoid,
        traceparent=infer.traceparent,
        is_resume=returns and not ownership.held_claim_token,
        slo=slo,
        most=most,
    )


def attach(infer: Infer, assignment: Assignment, journal: Journal) -> Attach:
    """To a job that runs there, or did; from the first token that `journal` lacks."""
    runs = assignment.state is JobState.RUNNING
    return Attach(
        job_id=assignment.job_id,
        from_seq=journal.tokens,
        stream=infer.stream,
        split_at=infer.from_seq,
        # only a run under this token can be settled; an answer that is settled is one anyway
        fencing_token=assignment.fencing_token if runs else 0,
    )


def run(
    infer: Infer,
    job: JobKey,
    fencing_token: int,
    journal: Journal,
    *,
    sampling: Sampling,
    deadline_s: float,
) -> Run:
    """From the beginning, or from what `journal` holds on."""
    emitted_ids = journal.emitted_ids if journal.prompt_ids else ()
    return Run(
        job=job,
        fencing_token=fencing_token,
        input=infer.input,
        sampling=sampling,
        deadline_s=deadline_s,
        stream=infer.stream,
        # without the prompt's ids nothing of the answer is known either
        prompt_ids=journal.prompt_ids,
        emitted_ids=emitted_ids,
        traceparent=infer.traceparent,
        split_at=infer.from_seq,
        said=(
            tuple((len(ids), text) for ids, text in journal.pieces())
            if job.keep and emitted_ids
            else ()
        ),
    )
