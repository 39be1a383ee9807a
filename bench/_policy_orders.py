"""What other orders of the policies would do: a seeded discrete-event simulation of the real
machines in front of a target that falls ill for a while. Used by `bench.policies`, and by the
test that compares its numbers with docs/policies.md.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Final

from supervision.errors import Overloaded, Unavailable
from supervision.policies import (
    COMPLETED,
    Again,
    AttemptOutcome,
    Breaker,
    Budget,
    Bulkhead,
    BulkheadOptions,
    Call,
    Deadline,
    DeadlineOptions,
    Done,
    Ended,
    GiveUp,
    Go,
    Policy,
    Rate,
    RateOptions,
    Retry,
    RetryOptions,
    Stack,
    Timeout,
    TimeoutOptions,
)

CALLS_PER_S: Final = 50.0
SLOTS: Final = 40  # of the target, each taking 50 to 150 ms: 400 answers a second
QUEUE: Final = 100
ILL: Final = (20.0, 35.0)
END_S: Final = 60.0
DEADLINE_S: Final = 5.0
ATTEMPT_S: Final = 2.0

FAULTS: Final = {
    "errors": "every attempt fails after 10 ms",
    "stalls": "one attempt in four is never answered",
    "slow": "answers take 15 times as long: it can give 27 a second of the 50 that are asked",
}
DEFAULT: Final = ("rate", "deadline", "retry", "breaker", "bulkhead", "timeout")
ORDERS: Final = {
    "**default**": DEFAULT,
    "deadline inside retry": ("rate", "retry", "deadline", "breaker", "bulkhead", "timeout"),
    "timeout outside retry": ("rate", "deadline", "timeout", "retry", "breaker", "bulkhead"),
    "breaker outside retry": ("rate", "deadline", "breaker", "retry", "bulkhead", "timeout"),
    "bulkhead outside retry": ("rate", "deadline", "bulkhead", "retry", "breaker", "timeout"),
    "rate inside retry": ("deadline", "retry", "rate", "breaker", "bulkhead", "timeout"),
    "no budget": ("rate", "deadline", "retry!", "breaker", "bulkhead", "timeout"),
    "no breaker": ("rate", "deadline", "retry", "bulkhead", "timeout"),
    "no breaker, no budget": ("rate", "deadline", "retry!", "bulkhead", "timeout"),
}


@dataclass(slots=True)
class Result:
    """What one order came to under one fault. Calls count by the time they began."""

    answered: float  # of all calls while the target was ill, percent
    late: float  # of the calls while ill: those that took more than the deadline, percent
    mean_s: float  # a call while ill, until it was answered or given up
    p99_s: float
    attempts: float  # that reached the target, for each call, while ill
    recovered_s: float  # after the illness, until nine calls in ten were answered at once again


@dataclass(slots=True, eq=False)
class Try:
    """An attempt at the target."""

    client: Client
    over: bool = False
    serving: bool = False


@dataclass(slots=True, eq=False)
class Client:
    """One call."""

    call: Call
    began: float
    ended: float = -1.0
    answered: bool = False
    attempts: int = 0


@dataclass
class Simulation:
    """Runs one order under one fault; the same seed gives the same result."""

    order: tuple[str, ...]
    fault: str
    seed: int = 1
    now: float = 0.0
    _events: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _count: int = 0
    _serving: int = 0

    def __post_init__(self) -> None:
        self._arrivals = Random(f"{self.seed} arrivals")
        self._work = Random(f"{self.seed} work")
        self._waiting: deque[Try] = deque()
        self._stack = Stack(*self._policies(Random(f"{self.seed} jitter").random))

    def run(self) -> Result:
        """Arrivals for `END_S`, then on until every call has ended."""
        clients: list[Client] = []
        at = self._arrivals.expovariate(CALLS_PER_S)
        while at < END_S:
            client = Client(self._stack.begin(), at)
            clients.append(client)
            self._at(at, lambda client=client: self._admit(client))
            at += self._arrivals.expovariate(CALLS_PER_S)
        while self._events:
            self.now, _, event = heapq.heappop(self._events)
            event()
        assert all(client.ended >= 0 for client in clients)
        assert not self._serving
        return _result(clients)

    def _policies(self, random: Callable[[], float]) -> Iterator[Policy]:
        budget = Budget()
        for name in self.order:
            if name == "rate":
                yield Rate(RateOptions(per_s=60.0, burst=20.0), 0.0)
            elif name == "deadline":
                yield Deadline(DeadlineOptions(total_s=DEADLINE_S))
            elif name.startswith("retry"):
                yield Retry(RetryOptions(), random, None if name.endswith("!") else budget)
            elif name == "breaker":
                yield Breaker()
            elif name == "bulkhead":
                yield Bulkhead(BulkheadOptions(at_once=60))
            else:
                yield Timeout(TimeoutOptions(attempt_s=ATTEMPT_S))

    def _at(self, at: float, event: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (at, self._count, event))

    # ---- the callers' side

    def _admit(self, client: Client) -> None:
        self._go_on(client, client.call.admit(self.now))

    def _go_on(self, client: Client, verdict: Go | Done | Again | GiveUp) -> None:
        if isinstance(verdict, Go):
            attempt = Try(client)
            client.attempts += 1
            self._at(verdict.until, lambda: self._expire(attempt))
            self._offer(attempt)
        elif isinstance(verdict, Again):
            self._at(verdict.at, lambda: self._admit(client))
        else:
            client.ended = self.now
            client.answered = isinstance(verdict, Done)

    def _end(self, attempt: Try, outcome: AttemptOutcome) -> None:
        if not attempt.over:
            attempt.over = True
            self._go_on(attempt.client, attempt.client.call.settle(outcome, self.now))

    def _expire(self, attempt: Try) -> None:
        """The attempt's time is up; its cancellation reaches the target, and frees its slot."""
        if not attempt.over:
            attempt.over = True
            self._leave(attempt)
            self._go_on(attempt.client, attempt.client.call.expire(self.now))

    # ---- the target

    def _offer(self, attempt: Try) -> None:
        ill = ILL[0] <= self.now < ILL[1]
        if ill and self.fault == "errors":
            failed = AttemptOutcome(Ended.FAILED, Unavailable("it is ill"))
            self._at(self.now + 0.01, lambda: self._end(attempt, failed))
        elif len(self._waiting) >= QUEUE:
            self._end(attempt, AttemptOutcome(Ended.REFUSED, Overloaded("its queue is full")))
        else:
            self._waiting.append(attempt)
            self._serve()

    def _serve(self) -> None:
        while self._waiting and self._serving < SLOTS:
            attempt = self._waiting.popleft()
            if attempt.over:
                continue
            attempt.serving = True
            self._serving += 1
            ill = ILL[0] <= self.now < ILL[1]
            takes_s = self._work.uniform(0.05, 0.15)
            stalls = self._work.random() < 0.25
            if ill and self.fault == "slow":
                takes_s *= 15
            if not (ill and self.fault == "stalls" and stalls):
                self._at(self.now + takes_s, lambda attempt=attempt: self._answer(attempt))

    def _answer(self, attempt: Try) -> None:
        self._leave(attempt)
        self._end(attempt, COMPLETED)

    def _leave(self, attempt: Try) -> None:
        if attempt.serving:
            attempt.serving = False
            self._serving -= 1
            self._serve()


def _result(clients: list[Client]) -> Result:
    ill = [client for client in clients if ILL[0] <= client.began < ILL[1]]
    took = sorted(client.ended - client.began for client in ill)
    recovered = END_S
    for tenths in range(int(ILL[1] * 10), int(END_S * 10) - 10):
        second = [c for c in clients if tenths <= c.began * 10 < tenths + 10]
        good = sum(c.answered and c.ended - c.began < ATTEMPT_S for c in second)
        if good >= 0.9 * len(second):
            recovered = tenths / 10
            break
    return Result(
        answered=100 * sum(client.answered for client in ill) / len(ill),
        late=100 * sum(seconds > DEADLINE_S + 1e-6 for seconds in took) / len(ill),
        mean_s=sum(took) / len(took),
        p99_s=took[int(0.99 * len(took))],
        attempts=sum(client.attempts for client in ill) / len(ill),
        recovered_s=recovered - ILL[1],
    )


def table(fault: str, seed: int = 1) -> str:
    """The rows of docs/policies.md for one fault, as Markdown."""
    lines = [
        "| order | answered | late | mean | p99 | attempts a call | well again after |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, order in ORDERS.items():
        got = Simulation(order, fault, seed).run()
        lines.append(
            f"| {name} | {got.answered:.1f} % | {got.late:.1f} % | {got.mean_s:.2f} s "
            f"| {got.p99_s:.2f} s | {got.attempts:.2f} | {got.recovered_s:.1f} s |"
        )
    return "\n".join(lines)
