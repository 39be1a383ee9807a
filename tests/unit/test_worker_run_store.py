"""Runs of a worker, kept for who comes late."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from actors.contracts import (
    ChatInput,
    Finish,
    Message,
    ModelCard,
    Run,
    Sampling,
    Usage,
)
from actors.engines.factory import create
from actors.errors import AnswerGone
from actors.worker.model_lease import ModelLease
from actors.worker.run import ModelRun
from actors.worker.run_store import RunStore
from tests.support.messages import key

CARD = ModelCard(name="echo", version="1", engine="echo")


def execution(
    job_id: str = "job", token: int = 1, tenant_id: str = "acme", **changes: Any
) -> ModelRun:
    values: dict[str, Any] = {
        "input": ChatInput(messages=(Message(role="user", content="hi"),)),
        "sampling": Sampling(seed=1),
        "deadline_s": 60.0,
    }
    job = key(job_id=job_id, tenant_id=tenant_id, model_ref="echo@1")
    run = Run(job=job, fencing_token=token, **(values | changes))
    use = ModelLease(None, CARD.ref, create(CARD, cache_dir=Path()))
    return ModelRun(run, use, (7, 8), 0.0)


def finish(made: ModelRun, now: float = 1.0) -> None:
    made.journal.close(Finish.STOP, Usage(prompt_tokens=2, completion_tokens=made.journal.tokens))
    made.finished_at = now
    made.wake()


def test_the_same_order_twice_is_one_run_and_a_stale_one_is_refused() -> None:
    records = RunStore(10, 1000, 30.0)
    made = execution(token=2)
    records.add(made)
    assert made.same(made.run)
    assert not made.same(msgspec.structs.replace(made.run, emitted_ids=(1,)))
    assert records.check_token("job", 2) is made
    assert records.check_token("other", 1) is None
    with pytest.raises(AnswerGone, match="1 is stale"):
        records.check_token("job", 1)
    assert records.find("job") is made
    assert records.find("job", 2) is made
    assert records.find("job", 3) is None, "its answer could not be settled"


def test_records_are_bounded_by_number_tokens_and_time() -> None:
    def over(records: RunStore, job_id: str, tokens: int, now: float) -> None:
        made = execution(job_id)
        records.add(made)
        made.journal.add(tuple(range(tokens)), "x")
        finish(made, now)
        records.over(made, keep=True)
        records.over(made, keep=True)

    records = RunStore(kept=2, kept_tokens=1000, keep_s=30.0)
    for number in range(4):
        over(records, f"j{number}", 1, float(number))
    assert [records.find(f"j{n}") is not None for n in range(4)] == [False, False, True, True]
    records.sweep(32.5)
    assert records.find("j2") is None
    assert records.find("j3") is not None
    records = RunStore(kept=10, kept_tokens=20, keep_s=30.0)
    for number in range(3):
        over(records, f"j{number}", 8, 0.0)
    assert records.finished == 2
    assert records.tokens == 20
    records.sweep(99.0)
    assert (len(records), records.tokens) == (0, 0)


def test_a_faulty_run_is_not_kept_and_a_superseded_one_displaces_nothing() -> None:
    records = RunStore(10, 1000, 30.0)
    old, new = execution(token=1), execution(token=2)
    records.add(old)
    records.add(new)
    records.over(old, keep=True)
    assert records.find("job") is new
    records.over(new, keep=False)
    assert records.find("job") is None
