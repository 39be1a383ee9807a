"""One run of a model: its reader, its end, and who settles it."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest

from actors.contracts import (
    ChatInput,
    Chunk,
    Completed,
    Finish,
    Message,
    ModelCard,
    Outcome,
    Run,
    Sampling,
    Settle,
    Usage,
)
from actors.engines.factory import create
from actors.errors import AnswerGone, WorkerLost
from actors.worker.model_lease import ModelLease
from actors.worker.run import End, Ending, ModelRun
from supervision.errors import DeadlineExceeded, Draining
from tests.support.garbage import garbage
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


def end(made: ModelRun, **changes: Any) -> End:
    values = {"from_seq": 0, "whole": False, "split_at": 0, "window_s": 0.02, "characters": 100}
    return End(made, **(values | changes))


def finish(made: ModelRun, now: float = 1.0) -> None:
    made.journal.close(Finish.STOP, Usage(prompt_tokens=2, completion_tokens=made.journal.tokens))
    made.finished_at = now
    made.wake()


def settle_as(made: ModelRun, ending: Ending) -> Settle | None:
    made.ending = ending
    return made.settle()


async def item(reader: End, later: list[ModelRun]) -> Chunk | Completed:
    return await reader.item(asyncio.get_running_loop(), later.append)


async def test_the_first_token_at_once_and_the_next_when_the_window_has_passed() -> None:
    made, later = execution(), list[ModelRun]()
    reader = end(made, window_s=60.0)
    made.journal.add((1,), "a")
    first = await item(reader, later)
    assert (first.seq, first.text, first.prompt_ids) == (0, "a", (7, 8))
    made.journal.add((2,), "b")
    waiting = asyncio.create_task(item(reader, later))
    await asyncio.sleep(0)
    assert later == [made], "the timer is told"
    made.journal.add((3,), "c")
    assert made.news(asyncio.get_running_loop().time()), "still to be read later"
    assert not waiting.done()
    made.wake()  # what the timer does
    second = await waiting
    assert (second.seq, second.text, second.prompt_ids) == (1, "bc", ())


async def test_a_lot_of_text_does_not_wait() -> None:
    made = execution()
    reader = end(made, window_s=60.0, characters=10)
    made.journal.add((1,), "a")
    await item(reader, [])
    waiting = asyncio.create_task(item(reader, []))
    await asyncio.sleep(0)
    made.journal.add((2,), "x" * 10)
    assert not made.news(asyncio.get_running_loop().time())
    assert (await waiting).text == "x" * 10


async def test_a_whole_answer_and_a_late_reader() -> None:
    made = execution()
    whole = asyncio.create_task(item(end(made, whole=True), []))
    made.journal.add((1, 2), "ab")
    await asyncio.sleep(0)
    assert not made.news(asyncio.get_running_loop().time())
    assert not whole.done()
    finish(made)
    answer = await whole
    assert isinstance(answer, Completed)
    assert answer.text == "ab"
    late = await item(end(made, from_seq=2), [])
    assert isinstance(late, Completed)
    assert (late.seq, late.text) == (2, "")


async def test_a_reader_hears_of_a_fault_after_what_was_said() -> None:
    made = execution()
    reader = end(made)
    made.journal.add((1,), "a")
    made.error, made.finished_at = WorkerLost("the engine failed"), 1.0
    assert (await item(reader, [])).text == "a"
    with pytest.raises(WorkerLost):
        await item(reader, [])


@pytest.mark.parametrize(
    ("ending", "outcome"),
    [
        (Ending.CANCELLED, Outcome.CANCELLED),
        (Ending.LATE, Outcome.FAILED),
        (Ending.SUPERSEDED, None),
        (Ending.LEFT, None),
        (Ending.STOPPING, None),
    ],
)
def test_who_settles_a_run_that_was_broken_off(ending: Ending, outcome: Outcome | None) -> None:
    made = execution(token=3, emitted_ids=(1, 2), stream=False)
    made.begun = True
    made.journal.add((3,), "c")
    made.break_off(ending)
    settle = made.settle()
    if outcome is None:
        assert settle is None, "another one goes on with it"
    else:
        assert settle is not None
        assert (settle.outcome, settle.fencing_token) == (outcome, 3)
        assert settle.usage == Usage(prompt_tokens=2, completion_tokens=3)
    if ending is Ending.SUPERSEDED:
        assert isinstance(made.explain(), AnswerGone), "its readers ask where it runs now"
    if ending is Ending.STOPPING:
        assert isinstance(made.explain(), Draining)
    if ending is Ending.LATE:
        assert isinstance(made.explain(), DeadlineExceeded)


def test_an_answer_that_was_read_to_its_end_says_so() -> None:
    made = execution()
    made.journal.close(Finish.STOP, Usage())
    for read in (False, True):
        made.done_reading = read
        settle = made.settle()
        assert settle is not None
        assert (settle.outcome, settle.delivered) == (Outcome.COMPLETED, read)


@pytest.mark.parametrize("ending", [Ending.CANCELLED, Ending.LATE])
async def test_of_a_stream_what_was_handed_out_is_billed(ending: Ending) -> None:
    made = execution()
    settle = settle_as(made, ending)
    assert settle is not None
    assert settle.usage == Usage(), "it never began"
    made.begun = True
    made.journal.add((1,), "a")
    reader = end(made, from_seq=0)
    assert (await item(reader, [])).token_ids == (1,)
    made.journal.add((2, 3), "bc")
    listening = settle_as(made, ending)
    assert listening is not None
    assert listening.usage == Usage(prompt_tokens=2, completion_tokens=3), "it gets what there is"
    reader.leave()
    left = settle_as(made, ending)
    assert left is not None
    assert left.usage == Usage(prompt_tokens=2, completion_tokens=1)


def test_a_fault_is_the_gateways_to_settle_and_an_answer_ours() -> None:
    made = execution()
    made.error = WorkerLost("the engine failed")
    assert made.settle() is None
    made = execution()
    made.journal.add((1,), "a")
    finish(made)
    settle = made.settle()
    assert settle is not None
    assert (settle.outcome, settle.finish) == (Outcome.COMPLETED, "stop")
    made.break_off(Ending.CANCELLED)
    assert made.settle() == settle, "too late to cancel"


def test_a_job_belongs_to_its_tenant() -> None:
    whole = execution(tenant_id="acme").generation()
    assert (whole.prompt_ids, whole.emitted_ids, whole.scope) == ((7, 8), (), "acme")
    rest = execution(tenant_id="other", prompt_ids=(7, 8), emitted_ids=(9,)).generation()
    assert (rest.prompt_ids, rest.emitted_ids, rest.scope) == ((7, 8), (9,), "other")


async def test_a_run_that_fails_leaves_nothing_for_the_collector() -> None:
    async def fails() -> None:
        made = execution()
        made.error = WorkerLost("gone")
        made.finished_at = 1.0
        for _ in range(2):
            reader = end(made)
            with contextlib.suppress(WorkerLost):
                await item(reader, [])
            reader.leave()

    with garbage() as left:
        await fails()
    assert "ModelRun" not in left
