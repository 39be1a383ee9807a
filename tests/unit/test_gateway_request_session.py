"""A session between a scheduler and workers that follow a script; time is the test's."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from actors.contracts import (
    Assignment,
    Attach,
    Billed,
    ChatInput,
    Chunk,
    Completed,
    Finish,
    Infer,
    JobState,
    Message,
    ModelCard,
    ModelPolicy,
    Outcome,
    Place,
    Placed,
    Run,
    Sampling,
    Usage,
)
from actors.contracts.policies import BulkheadTerms, RequestPolicies, RetryTerms, TimeoutTerms
from actors.core.journal import Journal, Reader
from actors.core.kept_answer import KeptAnswer, pack, refill, unpack
from actors.errors import AnswerGone, ContextExceeded, ModelNotFound, WorkerLost
from actors.gateway.continuation import go_on
from actors.gateway.model_policies import ModelPolicies
from actors.gateway.request_session import RequestSession
from supervision.contracts import Contract
from supervision.errors import (
    Cancelled,
    Conflict,
    DeadlineExceeded,
    NoAnswer,
    Overloaded,
    PeerLost,
    TetherError,
    Unavailable,
)
from supervision.policies import NEVER
from supervision.runtime.cancel_cause import CancelCause
from tests.support.garbage import garbage

AS_ALL = ModelPolicy()
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
                raise item.anew()
            return item
        raise StopAsyncIteration

    async def _wait(self, event: asyncio.Event) -> None:
        await event.wait()
        self._waits = None

    def close(self, why: CancelCause = CancelCause.CANCELLED) -> None:
        self.closed, self.closed_by = True, why
        if self._waits is not None:
            self._waits.set()


class SessionHost:
    """What hosts one session: `placements` and `scripts` are used up in order."""

    def __init__(
        self,
        placements: Iterable[Placed | TetherError | asyncio.Event],
        scripts: Iterable[Script],
        policy: ModelPolicy = AS_ALL,
    ) -> None:
        self.placements = iter(placements)
        self.scripts = iter(scripts)
        self.places: list[Place] = []
        self.opened: list[tuple[str, Contract]] = []
        self.streams: list[Words] = []
        self.freed: list[tuple[str, bool]] = []
        self.neutral: list[bool] = []
        self.endings = 0
        self.fetched = 0
        self.kept: KeptAnswer | None = None
        self.billed: Billed | None = None
        self.card: ModelCard | None = None
        self.loop = asyncio.get_running_loop()
        card = ModelCard(name="m", version="1", engine="echo", policy=policy)
        self.stack = ModelPolicies(RequestPolicies()).of(card, self.loop.time()).stack

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

    async def said_again(self, session: RequestSession) -> bool:
        self.fetched += 1
        if self.kept is None:
            session.past.billed = self.billed
            return False
        refill(session.journal, self.kept)
        return True

    def placed(self, worker_address: str) -> None:
        pass

    def cold(self, worker_address: str, model_ref: str) -> bool:
        return False

    def released(self, job_id: str, worker_id: str, *, ok: bool, neutral: bool = False) -> None:
        self.freed.append((worker_id, ok))
        self.neutral.append(neutral)

    def grew(self, session: RequestSession) -> None:
        pass

    def another(self, session: RequestSession) -> ModelCard | None:
        card, self.card = self.card, None
        return card

    def ended(self, session: RequestSession) -> None:
        self.endings += 1

    def moved(self, session: RequestSession, why: TetherError) -> None:
        pass

    def session(self, **changes: Any) -> RequestSession:
        values: dict[str, Any] = {
            "correlation_id": "c",
            "credential": "k",
            "model_ref": "m",
            "input": ChatInput(messages=(Message(role="user", content="hi"),)),
            "sampling": Sampling(max_tokens=10, seed=1),
            "retry_token": "t",
            "fingerprint": b"f",
        }
        return RequestSession(
            self,
            Infer(**(values | changes)),
            tenant_id="acme",
            card=ModelCard(name="m", version="1", engine="echo"),
            sampling=Sampling(max_tokens=10, seed=1),
            now=self.loop.time(),
            call=self.stack.begin(self.loop.time() + 60.0),
        )


def at(
    worker: str,
    token: int = 1,
    state: JobState = JobState.NEW,
    job_id: str = "job",
    claim: int = 0,
) -> Placed:
    return Placed(
        assignment=Assignment(
            job_id=job_id,
            worker_id=worker,
            worker_address=f"n/{worker}/0",
            fencing_token=token,
            state=state,
            claim_token=claim,
        )
    )


async def turns(condition: Callable[[], bool]) -> None:
    """Lets the loop turn until `condition` holds, and once more."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0)
    await asyncio.sleep(0)


async def read(session: RequestSession, from_seq: int = 0) -> list[int]:
    """As the gateway reads."""
    while session.journal.tokens < from_seq and session.outcome is None:
        await session.reading.more(session.step)
    reader = Reader(session.journal, from_seq)
    ids: list[int] = []
    while True:
        item = reader.next()
        if item is None:
            if session.error is not None:
                raise session.error.anew()
            await session.reading.more(session.step)
            continue
        ids.extend(item.token_ids)
        if isinstance(item, Completed):
            return ids


async def test_an_undisturbed_session() -> None:
    host = SessionHost([at("w1")], [[chunk(0, 1, prompt=(7, 8)), chunk(1, 2), completed(2, 3)]])
    session = host.session()
    assert await read(session) == [1, 2, 3]
    assert session.outcome is Outcome.COMPLETED
    assert host.endings == 1
    settle = session.settle()
    assert settle is not None
    assert (settle.outcome, settle.fencing_token, settle.usage.completion_tokens) == (
        "completed",
        1,
        3,
    )


async def test_a_lost_worker_is_continued_with_prompt_and_emitted_ids() -> None:
    host = SessionHost(
        [at("w1"), at("w2", token=2)],
        [
            [chunk(0, 1, prompt=(7, 8)), chunk(1, 2, 3), PeerLost("gone")],
            [chunk(1, 2, 3), chunk(3, 4), completed(4)],  # the overlap is dropped
        ],
    )
    session = host.session()
    assert await read(session) == [1, 2, 3, 4]
    assert (host.places[1].ownership.attempt, host.places[1].avoid) == (2, ("n/w1/0",))
    run = host.opened[1][1]
    assert isinstance(run, Run)
    assert (run.prompt_ids, run.emitted_ids, run.fencing_token) == ((7, 8), (1, 2, 3), 2)
    assert host.freed == [("w1", False)]


async def test_a_refusal_goes_elsewhere_and_costs_no_attempt() -> None:
    host = SessionHost(
        [at(f"w{n}", token=n) for n in range(1, 6)],
        [[Overloaded("full")]] * 4 + [[completed(0, 1)]],
    )
    assert await read(host.session()) == [1]
    assert [place.ownership.attempt for place in host.places] == [1, 2, 3, 4, 5]
    assert len(host.places[4].avoid) == 4
    assert host.neutral == [True] * 4, "a full worker is no broken one"


async def test_three_losses_are_the_end_and_the_client_sees_an_error() -> None:
    host = SessionHost(
        [at("w1"), at("w2", 2), at("w3", 3)],
        [[chunk(0, 1, prompt=(7,)), PeerLost("x")], [PeerLost("x")], [PeerLost("x")]],
    )
    session = host.session()
    with pytest.raises(WorkerLost, match="no other could continue"):
        await read(session)
    settle = session.settle()
    assert settle is not None
    assert (settle.outcome, settle.fencing_token, settle.error_code) == ("failed", 3, "worker_lost")
    assert host.endings == 1


async def test_the_requests_own_fault_is_not_tried_again() -> None:
    host = SessionHost([at("w1")], [[ContextExceeded("too long")]])
    session = host.session()
    with pytest.raises(ContextExceeded):
        await read(session)
    assert len(host.places) == 1
    assert session.settle() is not None


async def test_a_stream_that_just_ends_is_not_complete() -> None:
    host = SessionHost([at("w1"), at("w2", 2)], [[chunk(0, 1, prompt=(7,))], [completed(1, 2)]])
    assert await read(host.session()) == [1, 2]
    assert len(host.places) == 2


async def test_a_job_that_runs_already_is_attached_to() -> None:
    host = SessionHost(
        [at("w1", token=4, state=JobState.RUNNING, job_id="older")],
        [[chunk(0, 1, prompt=(7,)), chunk(1, 2), completed(2, 3)]],
    )
    session = host.session(from_seq=2)
    assert await read(session, 2) == [3]
    assert host.opened == [
        ("n/w1/0", Attach(job_id="older", from_seq=0, stream=True, split_at=2, fencing_token=4))
    ]
    settle = session.settle()
    assert settle is not None
    assert (settle.job_id, settle.fencing_token) == ("older", 4)


async def test_a_job_that_its_worker_never_began_is_begun_anew() -> None:
    host = SessionHost(
        [at("w1", state=JobState.RUNNING, job_id="older"), at("w1", token=2, job_id="older")],
        [[AnswerGone("not here")], [completed(0, 1)]],
    )
    assert await read(host.session()) == [1]
    assert (host.places[1].job.job_id, host.places[1].ownership.attempt) == ("older", 2)
    assert host.places[1].avoid == (), "the worker did nothing wrong"
    assert isinstance(host.opened[1][1], Run)


async def test_each_ask_draws_a_claim_and_names_the_one_it_was_told() -> None:
    host = SessionHost(
        [at("w1", state=JobState.RUNNING, job_id="older", claim=7), at("w2", token=2, claim=8)],
        [[PeerLost("gone")], [completed(0, 1)]],
    )
    assert await read(host.session()) == [1]
    first, second = host.places
    assert (first.ownership.held_claim_token, second.ownership.held_claim_token) == (0, 7)
    assert 0 < first.ownership.claim_token != second.ownership.claim_token > 0


async def test_a_claim_drawn_in_vain_is_held_by_the_next_ask() -> None:
    """Whether the first one took effect isn't known; if so, the job is to move from there."""
    go = asyncio.Event()
    host = SessionHost([go, at("w1"), at("w1", token=2)], [[completed(0, 1)]])
    session = host.session()
    first = asyncio.create_task(read(session))
    await turns(lambda: len(host.places) == 1)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert await read(session) == [1]
    assert host.places[1].ownership.held_claim_token == host.places[0].ownership.claim_token


async def test_who_is_led_back_to_the_run_it_left_asks_under_the_claim_it_is_told() -> None:
    """Somebody else was led there since; he has it too, and it is lost to both."""
    host = SessionHost(
        [at("w1", claim=7), at("w1", state=JobState.RUNNING, claim=9), at("w2", token=2, claim=10)],
        [[chunk(0, 1, prompt=(7,)), PeerLost("gone")], [completed(1, 2)]],
    )
    assert await read(host.session()) == [1, 2]
    assert [place.ownership.held_claim_token for place in host.places] == [0, 7, 9]
    assert [type(contract) for _, contract in host.opened] == [Run, Run]


async def test_a_run_that_somebody_else_moved_is_followed() -> None:
    """The worker follows a later order, of another gateway that has the same request."""
    host = SessionHost(
        [at("w1", claim=7), at("w1", token=2, state=JobState.RUNNING, claim=9)],
        [[chunk(0, 1, prompt=(7,)), AnswerGone("moved")], [chunk(1, 2), completed(2, 3)]],
    )
    session = host.session()
    assert await read(session) == [1, 2, 3]
    assert host.opened[1][1] == Attach(job_id="job", from_seq=1, stream=True, fencing_token=2)
    assert host.neutral == [True], "the worker did nothing wrong"
    settle = session.settle()
    assert settle is not None
    assert (settle.fencing_token, settle.delivered) == (2, True)


async def test_who_is_outpaced_for_ever_gives_up() -> None:
    known = [at("w1", state=JobState.RUNNING, claim=n) for n in range(2, 30)]
    host = SessionHost([at("w1", claim=1), *known], [[PeerLost("gone")]])
    with pytest.raises(WorkerLost, match="others take this job"):
        await read(host.session())
    assert len(host.places) == 10


@pytest.mark.parametrize("error", [AnswerGone("forgotten"), PeerLost("dead")])
async def test_an_answer_that_nobody_holds_is_gone(error: TetherError) -> None:
    host = SessionHost([at("w1", state=JobState.COMPLETED)], [[error]])
    session = host.session()
    with pytest.raises(AnswerGone):
        await read(session)
    assert len(host.places) == 1, "it was answered and billed; it is not computed again"
    assert session.settle() is None


def kept(*ids: int) -> KeptAnswer:
    journal = Journal()
    for number in ids:
        journal.add((number,), f"<{number}>")
    journal.close(Finish.STOP, Usage(2, len(ids)), "m@1")
    return unpack(pack(journal))


async def test_an_answer_that_is_kept_is_said_again_without_its_worker() -> None:
    host = SessionHost([at("w1", state=JobState.COMPLETED, job_id="older")], [])
    host.kept = kept(1, 2, 3)
    session = host.session(explicit_token=True)
    assert await read(session) == [1, 2, 3]
    assert (session.outcome, session.job_id, session.past.replayed) == ("completed", "older", True)
    assert session.settle() is None, "it is settled, and billed"
    assert host.opened == []


async def test_one_whose_key_was_made_up_is_not_looked_for() -> None:
    host = SessionHost([at("w1", state=JobState.COMPLETED)], [[completed(0, 1)]])
    assert await read(host.session(is_resume=True)) == [1]
    assert host.fetched == 0


async def test_the_worker_is_asked_where_the_store_has_nothing() -> None:
    host = SessionHost([at("w1", state=JobState.COMPLETED)], [[completed(0, 1, 2)]])
    session = host.session(explicit_token=True)
    assert await read(session) == [1, 2]
    assert session.past.replayed and host.fetched == 1


async def test_an_answer_that_is_gone_says_what_it_was_billed() -> None:
    host = SessionHost([at("w1", state=JobState.COMPLETED)], [[PeerLost("dead")]])
    host.billed = Billed(job_id="job", entries=1, output_tokens=3, micros=7, currency="EUR")
    with pytest.raises(AnswerGone) as caught:
        await read(host.session(explicit_token=True))
    assert caught.value.details == {
        "job_id": "job",
        "entries": 1,
        "prompt_tokens": 0,
        "cached_tokens": 0,
        "reasoning_tokens": 0,
        "output_tokens": 3,
        "micros": 7,
        "currency": "EUR",
    }


async def test_a_stream_that_was_begun_is_ended_from_the_store() -> None:
    host = SessionHost(
        [at("w1"), at("w1", state=JobState.COMPLETED)],
        [[chunk(0, 1, prompt=(7, 8)), PeerLost("x")]],
    )
    host.kept = kept(1, 2, 3)
    session = host.session(explicit_token=True)
    assert await read(session) == [1, 2, 3]
    assert not session.past.replayed, "it was computed for this request"


async def test_who_does_not_want_to_join_is_told_that_it_runs() -> None:
    host = SessionHost([at("w1", state=JobState.RUNNING, job_id="older")], [])
    session = host.session(explicit_token=True, join=False)
    with pytest.raises(Conflict, match="runs") as caught:
        await read(session)
    assert (caught.value.status, caught.value.param) == (409, "Idempotency-Key")
    assert session.settle() is None, "it is somebody else's"
    assert (session.worker_id, host.freed) == ("", [])


async def test_who_does_not_want_to_join_comes_back_to_its_own() -> None:
    for changes in ({"is_resume": True}, {}):
        own = at("w1", state=JobState.RUNNING, job_id="older")
        host = SessionHost([own], [[completed(0, 1)]])
        session = host.session(explicit_token=True, join=False, **changes)
        if not changes:  # its own ask was answered, and the answer was lost
            host.placements = iter([at("w1", state=JobState.RUNNING, job_id=session.job_id)])
        assert await read(session) == [1]


async def test_one_goes_on_from_what_was_said_before_it() -> None:
    host = SessionHost(
        [at("w1"), at("w2", token=2)],
        [
            [chunk(0, 1, prompt=(7, 8)), chunk(1, 2, 3), ContextExceeded("x")],
            [chunk(3, 4), completed(4)],
        ],
    )
    first = host.session(explicit_token=True)
    with pytest.raises(ContextExceeded):
        await read(first)
    session = host.session(explicit_token=True)
    go_on(session, first)
    assert session.past.had == 3
    assert session.past.unplaced(session.placement.assignment)
    assert await read(session) == [1, 2, 3, 4]
    run = host.opened[1][1]
    assert isinstance(run, Run)
    assert (run.prompt_ids, run.emitted_ids) == ((7, 8), (1, 2, 3))
    assert run.said == ((1, "<1>"), (2, "<2><3>"))
    assert first.journal.tokens == 3, "its own journal is as it was"


async def test_another_version_does_not_go_on() -> None:
    host = SessionHost([at("w1")], [[chunk(0, 1, prompt=(7, 8)), ContextExceeded("x")]])
    first = host.session(explicit_token=True)
    with pytest.raises(ContextExceeded):
        await read(first)
    first.placement.retarget("m@2")
    session = host.session(explicit_token=True)
    go_on(session, first)
    assert (session.journal.tokens, session.past.had) == (0, 0)


@pytest.mark.parametrize("error", [AnswerGone("forgotten"), PeerLost("dead")])
async def test_a_lost_answer_is_said_once_more_to_the_client_that_waits_for_it(
    error: TetherError,
) -> None:
    """Its gateway and its worker died, after it was settled and before it had all arrived."""
    host = SessionHost(
        [
            at("w1", token=3, state=JobState.COMPLETED, job_id="older"),
            at("w2", token=4, job_id="older"),
        ],
        [[error], [chunk(0, 1, prompt=(7,)), chunk(1, 2), completed(2, 3)]],
    )
    session = host.session(from_seq=1, is_resume=True)
    assert await read(session, 1) == [2, 3]
    assert [place.ownership.lost_fencing_token for place in host.places] == [0, 3]
    assert host.places[1].job.job_id == "older"
    assert isinstance(host.opened[1][1], Run)
    settle = session.settle()
    assert settle is not None
    assert (settle.job_id, settle.fencing_token, settle.outcome) == ("older", 4, "completed")


async def test_a_worker_that_settled_and_died_before_its_last_chunk_came() -> None:
    host = SessionHost(
        [at("w1"), at("w1", state=JobState.COMPLETED), at("w2", token=2)],
        [[chunk(0, 1, prompt=(7,)), PeerLost("x")], [PeerLost("dead")], [completed(1, 2)]],
    )
    assert await read(host.session()) == [1, 2]
    assert [place.ownership.lost_fencing_token for place in host.places] == [0, 0, 1]


async def test_no_worker_is_said_as_it_is() -> None:
    host = SessionHost([Unavailable("no worker for m@1 is up")], [])
    session = host.session()
    with pytest.raises(Unavailable, match="no worker"):
        await read(session)
    assert session.settle() is None


async def test_another_reader_moves_on_what_the_first_one_left() -> None:
    """The reader that moves a session is cancelled while it waits for the worker."""
    go = asyncio.Event()
    host = SessionHost([at("w1")], [[chunk(0, 1, prompt=(7,)), go, chunk(1, 2), completed(2, 3)]])
    session = host.session()
    first = asyncio.create_task(read(session))
    second = asyncio.create_task(read(session))
    await turns(lambda: session.journal.tokens >= 1)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    go.set()
    assert await second == [1, 2, 3]
    assert len(host.opened) == 1


async def test_a_reader_that_leaves_while_it_is_placed_undoes_that() -> None:
    go = asyncio.Event()
    host = SessionHost([go, at("w1", token=2)], [[completed(0, 1)]])
    session = host.session()
    first = asyncio.create_task(read(session))
    second = asyncio.create_task(read(session))
    await turns(lambda: bool(host.places))
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert await second == [1]
    assert host.freed == [("", True)]
    assert [place.ownership.attempt for place in host.places] == [1, 2], "under a token of its own"


@pytest.mark.parametrize("fail", [Cancelled("left"), DeadlineExceeded("late")])
async def test_ended_from_outside_while_it_waits_for_the_worker(fail: TetherError) -> None:
    never = asyncio.Event()
    host = SessionHost([at("w1")], [[chunk(0, 1, prompt=(7,)), never, completed(1, 2)]])
    session = host.session()
    reading = asyncio.create_task(read(session))
    await turns(lambda: session.journal.tokens >= 1)
    session.fail(fail)
    session.fail(fail)
    with pytest.raises(type(fail)):
        await reading
    assert host.streams[0].closed
    assert host.endings == 1
    settle = session.settle()
    assert settle is not None
    assert settle.usage.completion_tokens == 1


async def test_ended_from_outside_while_it_is_placed() -> None:
    go = asyncio.Event()
    host = SessionHost([go, at("w1")], [])
    session = host.session()
    reading = asyncio.create_task(read(session))
    await turns(lambda: bool(host.places))
    session.fail(DeadlineExceeded("late"))
    go.set()
    with pytest.raises(DeadlineExceeded):
        await reading
    assert host.freed == [("", True)], "what was placed in vain is given back"
    assert not host.opened


async def test_a_model_s_own_policy_says_how_often_it_is_tried() -> None:
    once = ModelPolicy(retry=RetryTerms(attempts=1))
    host = SessionHost([at("w1")], [[PeerLost("gone")]], once)
    with pytest.raises(WorkerLost, match="no other could continue"):
        await read(host.session())
    host = SessionHost([at("w1")], [[Overloaded("full")]], ModelPolicy(order=("deadline",)))
    with pytest.raises(Overloaded):
        await read(host.session())
    assert len(host.places) == 1


async def test_it_waits_between_two_attempts_as_its_policy_says() -> None:
    slow = ModelPolicy(retry=RetryTerms(pause_s=0.04, max_pause_s=0.04))
    host = SessionHost(
        [at("w1"), at("w2", token=2)], [[WorkerLost("broke")], [completed(0, 1)]], slow
    )
    session = host.session()
    began = host.loop.time()
    first = asyncio.create_task(read(session))
    await turns(lambda: bool(host.freed))
    second = asyncio.create_task(read(session))
    first.cancel()  # who comes after it waits for the rest of the pause
    assert await second == [1]
    assert host.loop.time() - began >= 0.02


async def test_a_worker_that_says_nothing_is_left_for_another_one() -> None:
    never = asyncio.Event()
    quick = ModelPolicy(order=("deadline", "retry", "timeout"), timeout=TimeoutTerms(attempt_s=5))
    host = SessionHost(
        [at("w1"), at("w2", token=2)],
        [[never], [chunk(0, 1, prompt=(7,)), completed(1, 2)]],
        quick,
    )
    session = host.session()
    reading = asyncio.create_task(read(session))
    await turns(lambda: bool(host.streams))
    assert 0 < session.placement.silent_until - host.loop.time() <= 5
    session.expire(host.loop.time() + 4)
    assert not host.streams[0].closed, "there is time yet"
    session.expire(host.loop.time() + 6)
    assert await reading == [1, 2]
    assert session.placement.silent_until == NEVER
    assert host.freed[0] == ("w1", False)
    assert not host.neutral[0], "its breaker hears of it"
    assert host.places[1].avoid == ("n/w1/0",)


async def test_a_policy_outside_of_the_retry_refuses_at_once() -> None:
    full = ModelPolicy(order=("bulkhead", "deadline", "retry"), bulkhead=BulkheadTerms(at_once=1))
    host = SessionHost([at("w1")], [[completed(0, 1)]], full)
    first, second = host.session(), host.session(retry_token="u")
    assert first.placement.admit(host.loop.time())
    with pytest.raises(Overloaded):
        second.placement.admit(host.loop.time())
    assert await read(first) == [1]
    assert host.session(retry_token="v").placement.admit(host.loop.time()), (
        "its place is free again"
    )


SECOND = ModelCard(name="m", version="2", engine="echo")


async def test_a_version_that_goes_while_it_waits_is_followed_by_another() -> None:
    host = SessionHost([Unavailable("no worker"), at("w1")], [[completed(0, 1)]])
    host.card = SECOND
    session = host.session()
    assert await read(session) == [1]
    assert [place.job.model_ref for place in host.places] == ["m@1", "m@2"]
    assert session.card is SECOND


async def test_a_version_that_goes_in_the_worker_s_queue_is_followed_by_another() -> None:
    host = SessionHost(
        [at("w1"), at("w1", token=2)], [[ModelNotFound("retired")], [completed(0, 1)]]
    )
    host.card = SECOND
    assert await read(host.session()) == [1]
    assert [(p.job.model_ref, p.ownership.attempt, p.avoid) for p in host.places] == [
        ("m@1", 1, ()),
        ("m@2", 2, ()),
    ]
    run = host.opened[1][1]
    assert isinstance(run, Run)
    assert run.job.model_ref == "m@2"


@pytest.mark.parametrize("asked", ["m@1", "m"])
async def test_a_version_that_was_named_or_has_begun_is_not_changed(asked: str) -> None:
    script: Script = [ModelNotFound("retired")]
    if asked == "m":
        script = [chunk(0, 1, prompt=(7,)), ModelNotFound("retired")]
    host = SessionHost([at("w1")], [script])
    host.card = SECOND
    with pytest.raises(ModelNotFound):
        await read(host.session(model_ref=asked))
    assert host.card is SECOND


async def test_a_reservation_that_hangs_is_asked_again_under_the_claim_of_before() -> None:
    host = SessionHost([NoAnswer("hangs"), NoAnswer("hangs"), at("w1", 3)], [[completed(0, 1)]])
    host.card = SECOND
    session = host.session()
    assert await read(session) == [1]
    first, second, third = host.places
    claims = [place.ownership for place in (first, second, third)]
    assert 0 != claims[0].claim_token == claims[1].held_claim_token != claims[1].claim_token
    assert claims[1].claim_token == claims[2].held_claim_token
    assert [(o.held_claim_token, o.attempt) for o in (claims[0],)] == [(0, 1)]
    assert claims[2].attempt == 3
    assert session.card is not SECOND, "that somebody hangs says nothing of the version"


async def test_one_that_hangs_for_ever_is_given_up_as_such_and_not_as_a_deadline() -> None:
    host = SessionHost([NoAnswer("it did not answer")] * 20, [])
    with pytest.raises(NoAnswer, match="did not answer") as caught:
        await read(host.session())
    assert len(host.places) == 9
    assert caught.value.retryable
    assert caught.value.status == 503


async def test_one_that_hangs_beyond_the_deadline() -> None:
    hold = asyncio.Event()
    host = SessionHost([hold, NoAnswer("hangs")], [])
    session = host.session()
    reading = asyncio.create_task(read(session))
    await turns(lambda: bool(host.places))
    session.placement.deadline = host.loop.time()
    hold.set()
    with pytest.raises(DeadlineExceeded, match="before the deadline: hangs"):
        await reading
    assert len(host.places) == 1


@pytest.mark.parametrize("state", [JobState.NEW, JobState.RUNNING])
async def test_a_run_that_ends_at_the_deadline_of_another_is_continued(state: JobState) -> None:
    """Who came first with this retry token had less time than we have."""
    host = SessionHost(
        [at("w1", state=state, claim=7), DeadlineExceeded("in the queue"), at("w1", 2)],
        [[chunk(0, 1, prompt=(7,)), DeadlineExceeded("late")], [completed(1, 2)]],
    )
    session = host.session()
    assert await read(session) == [1, 2]
    run = host.opened[1][1]
    assert isinstance(run, Run)
    assert (run.emitted_ids, run.fencing_token) == ((1,), 2)
    assert host.freed == [("w1", True)], "its worker did nothing wrong"


async def test_a_run_that_ends_at_our_own_deadline_is_at_its_end() -> None:
    host = SessionHost([at("w1")], [[DeadlineExceeded("late")]])
    session = host.session()
    session.placement.admit(host.loop.time())
    session.placement.deadline = host.loop.time() + 0.1
    with pytest.raises(DeadlineExceeded, match="late"):
        await read(session)
    assert len(host.places) == 1


async def test_who_joins_with_more_time_has_it() -> None:
    session = SessionHost([], []).session()
    session.placement.admit(0.0)
    before = session.placement.deadline
    session.placement.prolong(before - 1.0)
    assert session.placement.deadline == before
    session.placement.prolong(before + 5.0)
    assert session.placement.deadline == before + 5.0


@pytest.mark.parametrize("error", [DeadlineExceeded("late"), PeerLost("gone"), AnswerGone("x")])
async def test_a_session_that_fails_leaves_nothing_for_the_collector(error: TetherError) -> None:
    async def fails() -> None:
        scripts: list[Script] = [[chunk(0, 1, prompt=(7,)), error] for _ in range(50)]
        host = SessionHost([at(f"w{n}", token=n + 1) for n in range(50)], scripts)
        with contextlib.suppress(TetherError):
            await read(host.session())

    await fails()
    with garbage() as left:
        await fails()
    assert not {name for name in left if name in ("RequestSession", "SessionPlacement", "Call")}
