"""What a worker is made of: runs and their readers, records, health reports."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from actors.contracts import (
    ChatInput,
    Chunk,
    Completed,
    Finish,
    HealthReport,
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
from actors.gateway.unsettled import UnsettledAnswers
from actors.worker.health import HealthReporter, digest_of
from actors.worker.model_lease import ModelLease
from actors.worker.options import WorkerOptions
from actors.worker.run import End, Ending, ModelRun
from actors.worker.run_store import RunStore
from supervision.errors import DeadlineExceeded, Draining
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
        (Ending.STOPPING, None),
    ],
)
def test_who_settles_a_run_that_was_broken_off(ending: Ending, outcome: Outcome | None) -> None:
    made = execution(token=3, emitted_ids=(1, 2))
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


def report(running: int, sequence: int) -> HealthReport:
    return HealthReport(
        worker_id="w",
        node_id="n",
        address="n/w/0",
        region="r",
        slots=4,
        running=running,
        queued=0,
        models=(),
        epoch=1,
        sequence=sequence,
    )


def test_when_a_report_is_due() -> None:
    heard: list[HealthReport] = []
    somebody = [False]

    def send(told: HealthReport) -> bool:
        heard.append(told)
        return somebody[0]

    health = HealthReporter(5.0, 1, send)
    assert health.due(0, 0, 0.0), "the first"
    health.send(report(0, health.next_sequence()), 0.0)
    assert health.due(0, 0, 0.1), "nobody was there"
    somebody[0] = True
    health.send(report(0, health.next_sequence()), 0.1)
    assert [told.sequence for told in heard] == [1, 2]
    assert not health.due(0, 0, 5.0)
    assert health.due(0, 0, 5.1)
    assert not health.due(3, 0, 0.9), "the load alone, at most once a second"
    assert health.due(3, 0, 1.1)
    health.touch()
    assert health.due(0, 0, 0.2)


def test_answers_to_settle_for_a_worker_that_is_gone() -> None:
    def settle(job_id: str) -> Settle:
        return Settle(job_id=job_id, fencing_token=1, outcome=Outcome.COMPLETED, usage=Usage())

    unsettled = UnsettledAnswers(bound=3, keep_s=5.0)
    for number, worker in enumerate(("w1", "w2", "w1", "w2")):
        unsettled.add(worker, settle(f"j{number}"), float(number))
    assert [s.job_id for s in unsettled.take("w1")] == ["j2"], "j0 was the oldest of four"
    assert unsettled.take("w1") == []
    unsettled.sweep(6.5)
    assert [s.job_id for s in unsettled.take("w2")] == ["j3"]
    assert len(unsettled) == 0


def test_a_job_belongs_to_its_tenant() -> None:
    whole = execution(tenant_id="acme").generation()
    assert (whole.prompt_ids, whole.emitted_ids, whole.scope) == ((7, 8), (), "acme")
    rest = execution(tenant_id="other", prompt_ids=(7, 8), emitted_ids=(9,)).generation()
    assert (rest.prompt_ids, rest.emitted_ids, rest.scope) == ((7, 8), (9,), "other")


def test_options_are_validated() -> None:
    good = {"worker_id": "w", "node_id": "n", "cards": (CARD,), "cache_dir": "/x"}
    WorkerOptions(**good)  # type: ignore[arg-type]
    for field, value in (("slots", 0), ("cards", ()), ("cards", (CARD, CARD)), ("queue", -1)):
        with pytest.raises(ValueError, match="worker w"):
            WorkerOptions(**(good | {field: value}))  # type: ignore[arg-type]


def test_models_of_one_name_are_told_apart_and_folders_are_not():
    card = ModelCard(name="m", version="1", engine="transformers", source="/here/m")
    elsewhere = msgspec.structs.replace(card, source="/there/m", created_s=7)
    assert digest_of(card) == digest_of(elsewhere)
    others = [
        msgspec.structs.replace(card, **changes)
        for changes in (
            {"dtype": "bfloat16"},
            {"context": 99},
            {"source": "package:m"},
            {"source": "artifact:sha256:" + "0" * 64},
        )
    ]
    assert len({digest_of(other) for other in [card, *others]}) == 5
    health = HealthReporter(5.0, 1, lambda report: True)
    health.loaded(card)
    assert health.cached == ("m@1",)
    assert health.digests(["m@1", "x@1"]) == (digest_of(card), "")
    health.keep(["x@1"])
    assert health.cached == ()
