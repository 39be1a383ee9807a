"""What a reserve comes to: the job is the asker's, or nobody's, or stands for something already."""

from __future__ import annotations

from typing import Any

from actors.contracts import Assignment, JobState, Reserve, Reserved, Settled
from actors.errors import KeyReused
from actors.stores.verdict import Verdict
from supervision.errors import TetherError

#: What a request in a round came to; None means that it must be asked once more.
Answer = Reserved | Settled | TetherError | None


def given(m: Reserve, job_id: str, fencing_token: int, max_tokens: int = 0) -> Reserved:
    """The job is its asker's, at the worker that was asked for; its answer ends at `max_tokens`, if
    not 0."""
    return Reserved(
        assignment=Assignment(
            job_id=job_id,
            worker_id=m.worker_id,
            worker_address=m.worker_address,
            fencing_token=fencing_token,
            claim_token=m.ownership.claim_token,
            max_tokens=max_tokens,
        )
    )


def free(m: Reserve) -> Reserved:
    return Reserved(
        assignment=Assignment(
            job_id=m.job.job_id,
            worker_id="",
            worker_address="",
            fencing_token=0,
            state=JobState.FREE,
        )
    )


def answer_of(m: Reserve, row: Any) -> Answer:
    """What the row of `contest` means to who asked."""
    verdict = Verdict(row["verdict"])
    if verdict is Verdict.FREE:
        return free(m)
    if verdict is Verdict.CONFLICT:
        return KeyReused.told()
    if verdict is Verdict.GIVE:
        fence = row["given_fence"]
        # Without one somebody else was faster; ask how it stands now.
        if fence is None:
            return None
        return given(m, str(row["held_id"]), fence, row["held_most"])
    if verdict is Verdict.ANEW:
        return None
    led = verdict is Verdict.LED
    return Reserved(
        assignment=Assignment(
            job_id=str(row["held_id"]),
            worker_id=row["held_worker"],
            worker_address=row["held_address"],
            fencing_token=row["held_fence"],
            state=verdict.state,
            claim_token=m.ownership.claim_token if led else row["held_claim"],
            max_tokens=row["held_most"],
        )
    )
