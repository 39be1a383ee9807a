"""The pool and the runs of a worker, on a loop of the test's own; it holds loads as it likes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest

from actors.contracts import ChatInput, Message, ModelCard, Run, Sampling
from actors.engines.engine import Engine
from actors.engines.factory import create
from actors.errors import ModelNotFound, ModelUnusable, WorkerLost
from actors.worker.model_metrics import TokenRate
from actors.worker.options import WorkerOptions
from actors.worker.pool import Pool
from actors.worker.run import Ending
from actors.worker.runs import Runs
from supervision.errors import DeadlineExceeded, Overloaded, TetherError
from tests.support.messages import key
from tests.support.waiting import until

A, B, C = (
    ModelCard(name=name, version="1", engine="echo", memory_mib=10) for name in ("a", "b", "c")
)


class Stage:
    """A worker's pool, with what it stands on. Each load waits for its `gate`, if there is one."""

    def __init__(self, *cards: ModelCard, **changes: Any) -> None:
        self.loop = asyncio.get_running_loop()
        values: dict[str, Any] = {
            "worker_id": "w", "node_id": "n", "cache_dir": "/x", "cards": cards,
            "keep_loaded_s": 0.0, "models": ("*",),
        }  # fmt: skip
        self.options = WorkerOptions(**(values | changes))
        self.loads: list[str] = []
        self.gates: dict[str, asyncio.Future[None]] = {}
        self.failed: list[TetherError] = []
        self.kept: set[str] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self.files = 0
        self.pool = Pool(self, self.options, self.open, lambda card: None, self.keep)  # type: ignore[arg-type]

    # ---- what an actor is to a pool

    def background(self, work: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
        task = self.loop.create_task(work, name=name)
        self.tasks.add(task)
        return task

    async def fail(self, error: TetherError) -> None:
        self.failed.append(error)

    # ---- what a worker is to a pool

    async def open(self, card: ModelCard, sized: Callable[[int], None]) -> Engine:
        self.loads.append(card.ref)
        sized(self.files)
        if gate := self.gates.get(card.ref):
            await gate
        engine = create(card, cache_dir=Path(), slots=1, queue=0)
        await engine.open()
        return engine

    def keep(self, cards: Any) -> None:
        self.kept = {card.ref for card in cards}

    def hold(self, card: ModelCard) -> asyncio.Future[None]:
        gate = self.gates[card.ref] = self.loop.create_future()
        return gate

    async def warm(self, *cards: ModelCard) -> None:
        await until(lambda: self.pool.models == tuple(card.ref for card in cards))


async def stage(*cards: ModelCard, **changes: Any) -> Stage:
    made = Stage(*cards, **changes)
    made.pool.adopt(cards)
    return made


async def test_many_uses_of_a_cold_model_are_one_load_and_one_eviction() -> None:
    made = await stage(A, B, model_memory_mib=10)
    await made.warm(A)
    first = made.pool.use(A.ref)
    uses = [made.pool.use(B.ref) for _ in range(50)]
    assert made.loads == ["a@1"], "a is in use"
    uses.pop().done()
    first.done()
    first.done()
    engines = {await use.get() for use in uses}
    assert len(engines) == 1
    assert made.loads == ["a@1", "b@1"]
    assert made.pool.models == ("b@1",)
    for use in uses:
        use.done()
    assert not any(model.holds or model.waits for model in made.pool._warm._models.values())


async def test_a_load_that_fails_refuses_who_waits_and_leaves_the_others() -> None:
    made = await stage(A, B)
    await made.warm(A, B)
    gate = made.hold(C)
    made.pool.adopt((A, B, C))
    use = made.pool.use(C.ref)
    gate.set_exception(ModelUnusable("its file is short"))
    with pytest.raises(Overloaded, match=r"c@1 can't be loaded on this worker \(its file is short"):
        await use.get()
    use.done()
    with pytest.raises(Overloaded, match="tried again later"):
        made.pool.use(C.ref)
    assert made.pool.models == ("a@1", "b@1")
    assert not made.failed, "the others answer"


async def test_a_worker_none_of_whose_models_can_be_had_fails_with_what_is_wrong() -> None:
    made = Stage(A, B)
    for card in (A, B):
        made.hold(card).set_exception(ModelUnusable(f"no {card.name}"))
    made.pool.adopt((A, B))
    await until(lambda: made.failed)
    assert made.failed[0].message == "no b"
    assert made.loads == ["a@1", "b@1"]


async def test_what_the_catalog_brought_fails_no_worker() -> None:
    made = Stage()
    made.hold(A).set_exception(RuntimeError("a bug"))
    made.pool.adopt((A,))
    await until(lambda: made.pool._warm.faults)
    assert not made.failed
    assert made.pool._warm.faults == {"a@1": "its load broke; see the log"}


async def test_who_waits_for_what_is_retired_is_told_so_and_its_load_is_for_nobody() -> None:
    made = await stage(A)
    await made.warm(A)
    gate = made.hold(B)
    made.pool.adopt((A, B))
    use = made.pool.use(B.ref)
    made.pool.adopt((A,))
    with pytest.raises(ModelNotFound, match="not offered any more"):
        await use.get()
    use.done()
    gate.set_result(None)
    await until(lambda: not made.pool._tasks)
    assert (made.pool.models, made.kept) == (("a@1",), {"a@1"})
    with pytest.raises(ModelNotFound):
        made.pool.use(B.ref)


async def test_who_waits_for_what_has_changed_has_it_when_it_has_changed_back() -> None:
    made = await stage(A)
    await made.warm(A)
    first = made.pool.use(A.ref)
    made.pool.adopt((msgspec.structs.replace(A, context=A.context + 1),))
    later = made.pool.use(A.ref)
    assert later.engine is None
    made.pool.adopt((A,))
    assert await asyncio.wait_for(later.get(), 1.0) is first.engine
    first.done()
    later.done()
    assert made.loads == ["a@1"]
    assert not any(model.holds or model.waits for model in made.pool._warm._models.values())


async def test_files_that_are_too_large_are_noticed_before_they_are_loaded() -> None:
    card = ModelCard(name="d", version="1", engine="echo")
    made = Stage(A, card, model_memory_mib=20)
    made.files = 21 << 20
    made.pool.adopt((A, card))
    await until(lambda: made.loads == ["a@1", "d@1"] and not made.pool._tasks)
    assert made.pool.models == ("a@1",)
    with pytest.raises(Overloaded, match="d@1 needs 21 MiB"):
        made.pool.use("d@1")


async def test_before_the_catalog_is_known_a_run_may_come_again() -> None:
    made = Stage(A)
    with pytest.raises(Overloaded, match="still starting"):
        made.pool.use(A.ref)
    with pytest.raises(ModelNotFound):
        made.pool.use(B.ref)


async def test_stopping_breaks_loads_off_and_closes_all() -> None:
    made = await stage(A)
    await made.warm(A)
    engine = made.pool._engines[A.ref]
    made.hold(B)
    made.pool.adopt((A, B))
    use = made.pool.use(B.ref)
    await made.pool.stop()
    with pytest.raises(Overloaded, match="stopping"):
        await use.get()
    assert not made.pool._tasks
    with pytest.raises(TetherError, match="closing"):
        await anext(engine.run(None))  # type: ignore[arg-type]


def run(job_id: str, card: ModelCard, **changes: Any) -> Run:
    values: dict[str, Any] = {
        "fencing_token": 1, "deadline_s": 60.0,
        "input": ChatInput(messages=(Message(role="user", content="hi"),)),
        "sampling": Sampling(seed=1, max_tokens=1),
    }  # fmt: skip
    return Run(job=key(job_id=job_id, model_ref=card.ref), **(values | changes))


async def test_runs_for_a_cold_model_hold_no_slot_and_count_in_the_bound() -> None:
    made = await stage(A, B, slots=2, queue=1)
    await made.warm(A, B)
    gate = made.hold(C)
    made.pool.adopt((A, B, C))
    runs = Runs(made, made.options)  # type: ignore[arg-type]
    cold = [runs.begin(run(f"cold{n}", C), made.pool.use(C.ref)) for n in range(2)]
    assert (runs.running, runs.queued) == (0, 2)
    warm = runs.begin(run("warm", A), made.pool.use(A.ref))
    assert (runs.running, runs.queued) == (1, 2)
    for card in (A, C):
        use = made.pool.use(card.ref)
        with pytest.raises(Overloaded, match=r"1 requests run and 2 wait"):
            runs.begin(run("more", card), use)
        use.done()
    await until(lambda: not warm.running)
    assert warm.journal.finish is not None, "it didn't wait for the load"
    cold[0].break_off(Ending.LATE)
    await until(lambda: not cold[0].running)
    assert isinstance(cold[0].error, DeadlineExceeded)
    assert "was not loaded here" in cold[0].error.message
    gate.set_result(None)
    await until(lambda: not cold[1].running)
    assert cold[1].journal.finish is not None
    assert (runs.running, runs.queued, runs._cold) == (0, 0, 0)
    assert not any(model.holds or model.waits for model in made.pool._warm._models.values())
    for execution in (*cold, warm):
        assert execution.task is not None
        execution.task.cancel()


async def test_an_engine_that_breaks_is_started_anew_and_not_for_ever() -> None:
    made = await stage(A, engine_restarts=1)
    await made.warm(A)
    for turn in range(2):
        engine: Any = made.pool._engines[A.ref]
        seen = engine.snapshot()
        engine.snapshot = lambda seen=seen: type(seen)(fault="it crashed")
        await made.pool.tick(made.loop.time())
        if turn == 0:
            assert made.pool.models == ()
            await made.warm(A)
    assert [type(error) for error in made.failed] == [WorkerLost]
    assert made.loads == ["a@1", "a@1"]


def test_tokens_per_second_of_engines_that_come_and_go() -> None:
    rate = TokenRate(over_s=10.0)
    assert rate.per_s(0.0) == 0.0
    rate.see({"a": 0}, 0.0)
    rate.see({"a": 50, "b": 50}, 5.0)
    assert rate.per_s(5.0) == 20.0
    rate.see({"a": 20}, 10.0)  # started anew
    assert rate.per_s(10.0) == 12.0
    rate.see({"a": 20}, 15.0)
    assert rate.per_s(15.0) == 2.0
    assert rate.per_s(30.0) == 0.0
