"""A flight between a scheduler and workers that follow a script; time is the test's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from actors.gateway.flight import Flight
from tether.contracts import (
    Attach,
    ChatInput,
    Chunk,
    Completed,
    Contract,
    Finish,
    Infer,
    Message,
    ModelCard,
    Outcome,
    Place,
    Placed,
    Run,
    Sampling,
    Usage,
)
from tether.core.journal import Reader
from tether.errors import (
    AnswerGone,
    Cancelled,
    ContextExceeded,
    DeadlineExceeded,
    ModelNotFound,
    NoAnswer,
    Overloaded,
    PeerLost,
    TetherError,
    Unavailable,
    WorkerLost,
)

Script = Iterable[Contract | TetherError | asyncio.Event]


def chunk(seq: int, *ids: int, prompt: tuple[int, ...] = ()) -> Chunk:
    return Chunk(seq=seq, token_ids=ids, text="".join(f"<{i}>" for i in ids), prompt_ids=prompt)


def completed(seq: int, *ids: int, total: int = 0) -> Completed:
    return Completed(
        seq=seq,
        token_ids=ids,
        text="".join(f"<{i}>" for i in ids),
        finish=Finish.STOP,
        usage=Usage(prompt_tokens=2, completion_tokens=total or seq + len(ids)),
        model_ref="m@1",
    )


class Words:
    """A stream from a worker that says what stands in the script; an event is waited for."""

    def __init__(self, script: Script) -> None:
        self._script = iter(script)
        self.closed = False
        self._waits: asyncio.Event | None = None

    def __aiter__(self) -> Words:
        return self

    async def __anext__(self) -> Any:
        if self._waits is not None:
            await self._wait(self._waits)
        for item in self._script:
            if self.closed:
                break
            if isinstance(item, asyncio.Event):
                self._waits = item
                await self._wait(item)
                continue
            if isinstance(item, TetherError):
                raise item
            return item
        raise StopAsyncIteration

    async def _wait(self, event: asyncio.Event) -> None:
        await event.wait()
        self._waits = None

    def close(self) -> None:
        self.closed = True
        if self._waits is not None:
            self._waits.set()


class Ground:
    """The surroundings of one flight: `placements` and `scripts` are used up in order."""

    def __init__(
        self, placements: Iterable[Placed | TetherError | asyncio.Event], scripts: Iterable[Script]
    ) -> None:
        self.placements = iter(placements)
        self.scripts = iter(scripts)
        self.places: list[Place] = []
        self.opened: list[tuple[str, Contract]] = []
        self.streams: list[Words] = []
        self.freed: list[tuple[str, bool]] = []
        self.neutral: list[bool] = []
        self.landings = 0
        self.card: ModelCard | None = None
        self.loop = asyncio.get_running_loop()

    async def place(self, place: Place, timeout: float) -> Placed:
        self.places.append(place)
        answer = next(self.placements)
        if isinstance(answer, asyncio.Event):
            await answer.wait()
            answer = next(self.placements)
        if isinstance(answer, TetherError):
            raise answer
        return answer

    def stream(self, address: Any, contract: Contract, credit: int = 64) -> Words:
        self.opened.append((address, contract))
        words = Words(next(self.scripts))
        self.streams.append(words)
        return words

    def placed(self, worker_address: str) -> None:
        pass

    def cold(self, worker_address: str, model_ref: str) -> bool:
        return False

    def released(self, job_id: str, worker_id: str, *, ok: bool, neutral: bool = False) -> None:
        self.freed.append((worker_id, ok))
        self.neutral.append(neutral)

    def grew(self, flight: Flight) -> None:
        pass

    def another(self, flight: Flight) -> ModelCard | None:
        card, self.card = self.card, None
        return card

    def landed(self, flight: Flight) -> None:
        self.landings += 1

    def moved(self, flight: Flight, why: TetherError) -> None:
        pass

    def flight(self, **changes: Any) -> Flight:
        values: dict[str, Any] = {
            "correlation_id": "c",
            "credential": "k",
            "model_ref": "m",
            "input": ChatInput(messages=(Message(role="user", content="hi"),)),
            "sampling": Sampling(max_tokens=10, seed=1),
            "retry_token": "t",
            "fingerprint": b"f",
        }
        return Flight(
            self,
            Infer(**(values | changes)),
            tenant_id="acme",
            card=ModelCard(name="m", version="1", engine="echo"),
            sampling=Sampling(max_tokens=10, seed=1),
            now=self.loop.time(),
            deadline_s=60.0,
            attempts=3,
        )


def at(worker: str, fence: int = 1, known: str = "", job_id: str = "job", claim: int = 0) -> Placed:
    return Placed(
        job_id=job_id,
        worker_id=worker,
        worker_address=f"n/{worker}/0",
        fence=fence,
        known=known,
        claim=claim,
    )


async def turns(condition: Callable[[], bool]) -> None:
    """Lets the loop turn until `condition` holds, and once more."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0)
    await asyncio.sleep(0)


async def read(flight: Flight, from_seq: int = 0) -> list[int]:
    """As the gateway reads."""
    while flight.journal.tokens < from_seq and flight.outcome is None:
        await flight.more()
    reader = Reader(flight.journal, from_seq)
    ids: list[int] = []
    while True:
        item = reader.next()
        if item is None:
            if flight.error is not None:
                raise flight.error
            await flight.more()
            continue
        ids.extend(item.token_ids)
        if isinstance(item, Completed):
            return ids


async def test_an_undisturbed_flight() -> None:
    ground = Ground([at("w1")], [[chunk(0, 1, prompt=(7, 8)), chunk(1, 2), completed(2, 3)]])
    flight = ground.flight()
    assert await read(flight) == [1, 2, 3]
    assert flight.outcome is Outcome.COMPLETED
    assert ground.landings == 1
    settle = flight.settle()
    assert settle is not None
    assert (settle.outcome, settle.fence, settle.usage.completion_tokens) == ("completed", 1, 3)


async def test_a_lost_worker_is_continued_with_prompt_and_emitted_ids() -> None:
    ground = Ground(
        [at("w1"), at("w2", fence=2)],
        [
            [chunk(0, 1, prompt=(7, 8)), chunk(1, 2, 3), PeerLost("gone")],
            [chunk(1, 2, 3), chunk(3, 4), completed(4)],  # the overlap is dropped
        ],
    )
    flight = ground.flight()
    assert await read(flight) == [1, 2, 3, 4]
    assert (ground.places[1].attempt, ground.places[1].avoid) == (2, ("n/w1/0",))
    run = ground.opened[1][1]
    assert isinstance(run, Run)
    assert (run.prompt_ids, run.emitted_ids, run.fence) == ((7, 8), (1, 2, 3), 2)
    assert ground.freed == [("w1", False)]


async def test_a_refusal_goes_elsewhere_and_costs_no_attempt() -> None:
    ground = Ground(
        [at(f"w{n}", fence=n) for n in range(1, 6)],
        [[Overloaded("full")]] * 4 + [[completed(0, 1)]],
    )
    assert await read(ground.flight()) == [1]
    assert [place.attempt for place in ground.places] == [1, 2, 3, 4, 5]
    assert len(ground.places[4].avoid) == 4
    assert ground.neutral == [True] * 4, "a full worker is no broken one"


async def test_three_losses_are_the_end_and_the_client_sees_an_error() -> None:
    ground = Ground(
        [at("w1"), at("w2", 2), at("w3", 3)],
        [[chunk(0, 1, prompt=(7,)), PeerLost("x")], [PeerLost("x")], [PeerLost("x")]],
    )
    flight = ground.flight()
    with pytest.raises(WorkerLost, match="no other could continue"):
        await read(flight)
    settle = flight.settle()
    assert settle is not None
    assert (settle.outcome, settle.fence, settle.error_code) == ("failed", 3, "worker_lost")
    assert ground.landings == 1


async def test_the_requests_own_fault_is_not_tried_again() -> None:
    ground = Ground([at("w1")], [[ContextExceeded("too long")]])
    flight = ground.flight()
    with pytest.raises(ContextExceeded):
        await read(flight)
    assert len(ground.places) == 1
    assert flight.settle() is not None


async def test_a_stream_that_just_ends_is_not_complete() -> None:
    ground = Ground([at("w1"), at("w2", 2)], [[chunk(0, 1, prompt=(7,))], [completed(1, 2)]])
    assert await read(ground.flight()) == [1, 2]
    assert len(ground.places) == 2


async def test_a_job_that_runs_already_is_attached_to() -> None:
    ground = Ground(
        [at("w1", fence=4, known="running", job_id="older")],
        [[chunk(0, 1, prompt=(7,)), chunk(1, 2), completed(2, 3)]],
    )
    flight = ground.flight(from_seq=2)
    assert await read(flight, 2) == [3]
    assert ground.opened == [
        ("n/w1/0", Attach(job_id="older", from_seq=0, stream=True, split_at=2, fence=4))
    ]
    settle = flight.settle()
    assert settle is not None
    assert (settle.job_id, settle.fence) == ("older", 4)


async def test_a_job_that_its_worker_never_began_is_begun_anew() -> None:
    ground = Ground(
        [at("w1", known="running", job_id="older"), at("w1", fence=2, job_id="older")],
        [[AnswerGone("not here")], [completed(0, 1)]],
    )
    assert await read(ground.flight()) == [1]
    assert (ground.places[1].job_id, ground.places[1].attempt) == ("older", 2)
    assert ground.places[1].avoid == (), "the worker did nothing wrong"
    assert isinstance(ground.opened[1][1], Run)


async def test_each_ask_draws_a_claim_and_names_the_one_it_was_told() -> None:
    ground = Ground(
        [at("w1", known="running", job_id="older", claim=7), at("w2", fence=2, claim=8)],
        [[PeerLost("gone")], [completed(0, 1)]],
    )
    assert await read(ground.flight()) == [1]
    first, second = ground.places
    assert (first.held, second.held) == (0, 7)
    assert 0 < first.claim != second.claim > 0


async def test_a_claim_drawn_in_vain_is_held_by_the_next_ask() -> None:
    """Whether the first one took effect isn't known; if so, the job is to move from there."""
    go = asyncio.Event()
    ground = Ground([go, at("w1"), at("w1", fence=2)], [[completed(0, 1)]])
    flight = ground.flight()
    first = asyncio.create_task(read(flight))
    await turns(lambda: len(ground.places) == 1)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert await read(flight) == [1]
    assert ground.places[1].held == ground.places[0].claim


async def test_who_is_led_back_to_the_run_it_left_asks_under_the_claim_it_is_told() -> None:
    """Somebody else was led there since; he has it too, and it is lost to both."""
    ground = Ground(
        [at("w1", claim=7), at("w1", known="running", claim=9), at("w2", fence=2, claim=10)],
        [[chunk(0, 1, prompt=(7,)), PeerLost("gone")], [completed(1, 2)]],
    )
    assert await read(ground.flight()) == [1, 2]
    assert [place.held for place in ground.places] == [0, 7, 9]
    assert [type(contract) for _, contract in ground.opened] == [Run, Run]


async def test_a_run_that_somebody_else_moved_is_followed() -> None:
    """The worker follows a later order, of another gateway that has the same request."""
    ground = Ground(
        [at("w1", claim=7), at("w1", fence=2, known="running", claim=9)],
        [[chunk(0, 1, prompt=(7,)), AnswerGone("moved")], [chunk(1, 2), completed(2, 3)]],
    )
    flight = ground.flight()
    assert await read(flight) == [1, 2, 3]
    assert ground.opened[1][1] == Attach(job_id="job", from_seq=1, stream=True, fence=2)
    assert ground.neutral == [True], "the worker did nothing wrong"
    settle = flight.settle()
    assert settle is not None
    assert (settle.fence, settle.delivered) == (2, True)


async def test_who_is_outpaced_for_ever_gives_up() -> None:
    known = [at("w1", known="running", claim=n) for n in range(2, 30)]
    ground = Ground([at("w1", claim=1), *known], [[PeerLost("gone")]])
    with pytest.raises(WorkerLost, match="others take this job"):
        await read(ground.flight())
    assert len(ground.places) == 10


@pytest.mark.parametrize("error", [AnswerGone("forgotten"), PeerLost("dead")])
async def test_an_answer_that_nobody_holds_is_gone(error: TetherError) -> None:
    ground = Ground([at("w1", known="completed")], [[error]])
    flight = ground.flight()
    with pytest.raises(AnswerGone):
        await read(flight)
    assert len(ground.places) == 1, "it was answered and billed; it is not computed again"
    assert flight.settle() is None


@pytest.mark.parametrize("error", [AnswerGone("forgotten"), PeerLost("dead")])
async def test_a_lost_answer_is_said_once_more_to_the_client_that_waits_for_it(
    error: TetherError,
) -> None:
    """Its gateway and its worker died, after it was settled and before it had all arrived."""
    ground = Ground(
        [at("w1", fence=3, known="completed", job_id="older"), at("w2", fence=4, job_id="older")],
        [[error], [chunk(0, 1, prompt=(7,)), chunk(1, 2), completed(2, 3)]],
    )
    flight = ground.flight(from_seq=1, again=True)
    assert await read(flight, 1) == [2, 3]
    assert [place.lost for place in ground.places] == [0, 3]
    assert ground.places[1].job_id == "older"
    assert isinstance(ground.opened[1][1], Run)
    settle = flight.settle()
    assert settle is not None
    assert (settle.job_id, settle.fence, settle.outcome) == ("older", 4, "completed")


async def test_a_worker_that_settled_and_died_before_its_last_chunk_came() -> None:
    ground = Ground(
        [at("w1"), at("w1", known="completed"), at("w2", fence=2)],
        [[chunk(0, 1, prompt=(7,)), PeerLost("x")], [PeerLost("dead")], [completed(1, 2)]],
    )
    assert await read(ground.flight()) == [1, 2]
    assert [place.lost for place in ground.places] == [0, 0, 1]


async def test_no_worker_is_said_as_it_is() -> None:
    ground = Ground([Unavailable("no worker for m@1 is up")], [])
    flight = ground.flight()
    with pytest.raises(Unavailable, match="no worker"):
        await read(flight)
    assert flight.settle() is None


async def test_another_reader_moves_on_what_the_first_one_left() -> None:
    """The reader that moves a flight is cancelled while it waits for the worker."""
    go = asyncio.Event()
    ground = Ground([at("w1")], [[chunk(0, 1, prompt=(7,)), go, chunk(1, 2), completed(2, 3)]])
    flight = ground.flight()
    first = asyncio.create_task(read(flight))
    second = asyncio.create_task(read(flight))
    await turns(lambda: flight.journal.tokens >= 1)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    go.set()
    assert await second == [1, 2, 3]
    assert len(ground.opened) == 1


async def test_a_reader_that_leaves_while_it_is_placed_undoes_that() -> None:
    go = asyncio.Event()
    ground = Ground([go, at("w1", fence=2)], [[completed(0, 1)]])
    flight = ground.flight()
    first = asyncio.create_task(read(flight))
    second = asyncio.create_task(read(flight))
    await turns(lambda: bool(ground.places))
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert await second == [1]
    assert ground.freed == [("", True)]
    assert [place.attempt for place in ground.places] == [1, 2], "under a fence of its own"


@pytest.mark.parametrize("fail", [Cancelled("left"), DeadlineExceeded("late")])
async def test_ended_from_outside_while_it_waits_for_the_worker(fail: TetherError) -> None:
    never = asyncio.Event()
    ground = Ground([at("w1")], [[chunk(0, 1, prompt=(7,)), never, completed(1, 2)]])
    flight = ground.flight()
    reading = asyncio.create_task(read(flight))
    await turns(lambda: flight.journal.tokens >= 1)
    flight.fail(fail)
    flight.fail(fail)
    with pytest.raises(type(fail)):
        await reading
    assert ground.streams[0].closed
    assert ground.landings == 1
    settle = flight.settle()
    assert settle is not None
    assert settle.usage.completion_tokens == 1


async def test_ended_from_outside_while_it_is_placed() -> None:
    go = asyncio.Event()
    ground = Ground([go, at("w1")], [])
    flight = ground.flight()
    reading = asyncio.create_task(read(flight))
    await turns(lambda: bool(ground.places))
    flight.fail(DeadlineExceeded("late"))
    go.set()
    with pytest.raises(DeadlineExceeded):
        await reading
    assert ground.freed == [("", True)], "what was placed in vain is given back"
    assert not ground.opened


SECOND = ModelCard(name="m", version="2", engine="echo")


async def test_a_version_that_goes_while_it_waits_is_followed_by_another() -> None:
    ground = Ground([Unavailable("no worker"), at("w1")], [[completed(0, 1)]])
    ground.card = SECOND
    flight = ground.flight()
    assert await read(flight) == [1]
    assert [place.model_ref for place in ground.places] == ["m@1", "m@2"]
    assert flight.card is SECOND


async def test_a_version_that_goes_in_the_worker_s_queue_is_followed_by_another() -> None:
    ground = Ground([at("w1"), at("w1", fence=2)], [[ModelNotFound("retired")], [completed(0, 1)]])
    ground.card = SECOND
    assert await read(ground.flight()) == [1]
    assert [(p.model_ref, p.attempt, p.avoid) for p in ground.places] == [
        ("m@1", 1, ()),
        ("m@2", 2, ()),
    ]
    run = ground.opened[1][1]
    assert isinstance(run, Run)
    assert run.model_ref == "m@2"


@pytest.mark.parametrize("asked", ["m@1", "m"])
async def test_a_version_that_was_named_or_has_begun_is_not_changed(asked: str) -> None:
    script: Script = [ModelNotFound("retired")]
    if asked == "m":
        script = [chunk(0, 1, prompt=(7,)), ModelNotFound("retired")]
    ground = Ground([at("w1")], [script])
    ground.card = SECOND
    with pytest.raises(ModelNotFound):
        await read(ground.flight(model_ref=asked))
    assert ground.card is SECOND


async def test_a_reservation_that_hangs_is_asked_again_under_the_claim_of_before() -> None:
    ground = Ground([NoAnswer("hangs"), NoAnswer("hangs"), at("w1", 3)], [[completed(0, 1)]])
    ground.card = SECOND
    flight = ground.flight()
    assert await read(flight) == [1]
    first, second, third = ground.places
    assert 0 != first.claim == second.held != second.claim == third.held
    assert (first.held, first.attempt, third.attempt) == (0, 1, 3)
    assert flight.card is not SECOND, "that somebody hangs says nothing of the version"


async def test_one_that_hangs_for_ever_is_given_up_as_such_and_not_as_a_deadline() -> None:
    ground = Ground([NoAnswer("it did not answer")] * 20, [])
    with pytest.raises(NoAnswer, match="did not answer") as caught:
        await read(ground.flight())
    assert len(ground.places) == 9
    assert caught.value.retryable
    assert caught.value.status == 503


async def test_one_that_hangs_beyond_the_deadline() -> None:
    hold = asyncio.Event()
    ground = Ground([hold, NoAnswer("hangs")], [])
    flight = ground.flight()
    reading = asyncio.create_task(read(flight))
    await turns(lambda: bool(ground.places))
    flight.deadline = ground.loop.time()
    hold.set()
    with pytest.raises(DeadlineExceeded, match="before the deadline: hangs"):
        await reading
    assert len(ground.places) == 1


@pytest.mark.parametrize("known", ["", "running"])
async def test_a_run_that_ends_at_the_deadline_of_another_is_continued(known: str) -> None:
    """Who came first with this retry token had less time than we have."""
    ground = Ground(
        [at("w1", known=known, claim=7), DeadlineExceeded("in the queue"), at("w1", 2)],
        [[chunk(0, 1, prompt=(7,)), DeadlineExceeded("late")], [completed(1, 2)]],
    )
    flight = ground.flight()
    assert await read(flight) == [1, 2]
    run = ground.opened[1][1]
    assert isinstance(run, Run)
    assert (run.emitted_ids, run.fence) == ((1,), 2)
    assert ground.freed == [("w1", True)], "its worker did nothing wrong"


async def test_a_run_that_ends_at_our_own_deadline_is_at_its_end() -> None:
    ground = Ground([at("w1")], [[DeadlineExceeded("late")]])
    flight = ground.flight()
    flight.deadline = ground.loop.time() + 0.1
    with pytest.raises(DeadlineExceeded, match="late"):
        await read(flight)
    assert len(ground.places) == 1


async def test_who_joins_with_more_time_has_it() -> None:
    flight = Ground([], []).flight()
    before = flight.deadline
    flight.prolong(before - 1.0)
    assert flight.deadline == before
    flight.prolong(before + 5.0)
    assert flight.deadline == before + 5.0
