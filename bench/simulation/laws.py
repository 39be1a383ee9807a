"""What must always hold, and what must hold once the dust has settled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, Protocol

from actors.contracts import Chunk, Completed, Finish, Outcome, Run
from actors.gateway.request_session import RequestSession
from actors.gateway.session_placement import EARLY_S
from actors.scheduler.placement import Placement
from bench.simulation.ledger import LEASE_S, Key, Ledger
from bench.simulation.network import Peer
from supervision.actions import Action
from supervision.errors import DeadlineExceeded, TetherError
from supervision.policies import State

INTENSITY, PERIOD_S = 3, 2.0  # of every supervisor

OVERTIME_S = 0.1  # that a deadline may lose on its way from process to process
SWEPT_S = 0.6  # after a lease has run out, while reservation runs
MEMORY_S = 5.0  # how long a gateway remembers an answer, to settle it for a worker that died


class Life(Peer, Protocol):
    """What the laws know of a process; `Process` is one."""

    generation: int
    died_at: float
    actor: Any


class Seen(Protocol):
    """What the laws look at; `World` is one."""

    ledger: Ledger
    processes: dict[str, Any]
    outage: bool
    back_at: float

    @property
    def now(self) -> float: ...

    def alive(self, kind: str) -> list[Life]: ...


class Broken(Exception):
    """A law was broken."""


class Laws:
    """Of one world. The first breach is kept, and raised at the end of its turn."""

    def __init__(self, world: Seen) -> None:
        self._world = world
        self.fault = ""
        self.completed: dict[Key, None] = {}
        """Requests whose client has seen the end."""
        self.said: dict[str, str] = {}
        """By worker id, what an operator last said of its breakers and was told to be so."""
        self.saying: Counter[str] = Counter()
        """By worker id, what operators have said and not been answered yet."""
        self._entered: dict[Key, list[tuple[int, int]]] = {}
        self._named: dict[Key, str] = {}
        self._ended: dict[Key, tuple[float, Life, str]] = {}
        self._runs: dict[tuple[str, int], tuple[Life, Any]] = {}

    def broken(self, what: str) -> None:
        """Something that must not happen."""
        self.fault = self.fault or what

    def check(self) -> None:
        """After each turn of the loop.

        Raises:
            Broken: a law was.
        """
        if not self.fault:
            self._slots()
            self._leases()
            self._names()
        if self.fault:
            raise Broken(self.fault)

    # ---- clients

    def item(self, tokens: list[int], expected: list[int], item: Chunk | Completed) -> None:
        """What a client is sent is a prefix of the undisturbed answer, whole only at its end."""
        if item.seq != len(tokens):
            self.broken(f"a client with {len(tokens)} tokens was sent a chunk from {item.seq}")
        tokens.extend(item.token_ids)
        if tokens != expected[: len(tokens)]:
            self.broken(f"a client was sent {tokens}, and {expected} is the answer")
        if isinstance(item, Completed) and (
            tokens != expected
            or item.finish is not Finish.STOP
            or item.usage.completion_tokens != len(expected)
        ):
            self.broken(f"an answer ended as complete after {len(tokens)} of {len(expected)}")

    def text(self, text: str, expected: list[int]) -> None:
        """The text of a complete answer."""
        if text != "".join(f" {token}" for token in expected):
            self.broken(f"the text of a complete answer was {text!r}")

    def told_late(self, error: TetherError, left_s: float) -> None:
        """A client was told that it gets nothing, with so much of its time left."""
        if isinstance(error, DeadlineExceeded) and left_s > EARLY_S + OVERTIME_S:
            self.broken(f"a client was told {left_s:.3f} s early that its deadline has passed")

    # ---- supervision

    def one_generation(self, path: str, before: Life | None) -> None:
        """Never two live processes of one child."""
        if before is not None and before.alive:
            self.broken(f"{path} was spawned while generation {before.generation} lives")

    def intensity(self, path: str, restarts: list[float]) -> None:
        """Restarts within the period."""
        recent = [at for at in restarts if self._world.now - at <= PERIOD_S]
        if len(recent) > INTENSITY:
            self.broken(f"{path} restarted children {len(recent)} times in {PERIOD_S} s")

    def nothing_again(self, path: str, generation: int, actions: list[Action]) -> None:
        """An exit that is told again changes nothing."""
        if actions:
            self.broken(f"the exit of {path} in generation {generation}, told again, did something")

    # ---- work

    def dispatched(self, process: Life, begin: Callable[..., Any]) -> Callable[..., Any]:
        """No job runs twice under one fencing token."""

        def begun(run: Run, engine: Any) -> Any:
            execution = begin(run, engine)
            job = self._world.ledger.jobs.get(run.job.job_id)
            if job is not None:
                key = (job.retry_token, run.fencing_token)
                other, older = self._runs.get(key, (process, None))
                if older is not None and other.alive and older.running and older.ending is None:
                    self.broken(
                        f"{job.retry_token} runs twice under fencing token {run.fencing_token}"
                    )
                self._runs[key] = (process, execution)
            return execution

        return begun

    def new_seats(self, placement: Placement, known: set[str]) -> None:
        """Nothing is held against a worker that has just started."""
        for seat in placement._seats.values():
            if seat.address not in known:
                for breaker in seat.breakers.values():
                    if breaker.state is not State.CLOSED:
                        self.broken(f"a new {seat.worker_id} has the breaker of the old one")

    def answered(self, gateway: Life, session: RequestSession) -> None:
        """A gateway has the end of an answer."""
        if session.outcome is Outcome.COMPLETED:
            key = session.tenant_id, session.infer.retry_token
            self._ended[key] = (self._world.now, gateway, session.worker_address)

    def billed_once(self) -> None:
        """A settle was told. A bill is only added to, and never becomes less."""
        for key, bill in self._world.ledger.bills.items():
            if bill.times > 1:
                self.broken(f"the answer of {key[1]} was billed {bill.times} times")
            before = self._entered.get(key, [])
            if bill.entries[: len(before)] != before:
                self.broken(f"the entries of {key[1]} were {before}, and are {bill.entries}")
            if any(output < 0 for _, output in bill.entries):
                self.broken(f"the bill of {key[1]} became less: {bill.entries}")
            if len(bill.entries) > len(before):
                self._entered[key] = list(bill.entries)

    def _slots(self) -> None:
        for process in self._world.alive("worker"):
            runs = getattr(process.actor, "_runs", None)
            if runs is None:
                continue
            guard = runs._guard
            if guard.running > guard.slots or guard.queued > guard.queue:
                self.broken(f"{process.name} runs {guard.running} in {guard.slots} slots")
            if guard.running + guard.queued > runs._tasks:
                self.broken(f"{process.name} counts {guard.running} slots for {runs._tasks} runs")
            warm = process.actor._pool._warm
            if warm.held > warm.budget:
                self.broken(f"the models of {process.name} take {warm.held} of {warm.budget} bytes")

    def _leases(self) -> None:
        world = self._world
        keepers = world.alive("reservation")
        if not keepers or world.outage or world.hung:
            return
        up_since = max(getattr(keepers[0].actor, "up_since", world.now), world.back_at)
        for job_id, lease in world.ledger.leases.items():
            if world.now - max(lease.expires_at, up_since + LEASE_S) > SWEPT_S:
                self.broken(f"the lease of {job_id[-6:]} outlived its end and the sweep")

    def _names(self) -> None:
        """A job never changes its id."""
        for key, job in self._world.ledger.by_token.items():
            if self._named.setdefault(key, job.id) != job.id:
                self.broken(f"the job of {key[1]} was {self._named[key]}, and is {job.id}")

    # ---- the end

    def settled(self) -> None:
        """All misfortune is over, and so is all work.

        Raises:
            Broken: something is left.
        """
        world = self._world
        running = [job.id[-6:] for job in world.ledger.jobs.values() if job.outcome is None]
        if running or world.ledger.leases:
            self.broken(f"jobs {running} still run, {len(world.ledger.leases)} leases are held")
        for kind in ("roster", "reservation", "scheduler", "gateway", "worker"):
            if not world.alive(kind):
                self.broken(f"no {kind} came back")
        for process in world.alive("worker"):
            guard = process.actor._runs._guard
            if guard.running or guard.queued or process.actor._runs._cold:
                self.broken(f"{process.name} still counts {guard.running} slots")
            for model in process.actor._pool._warm._models.values():
                if model.holds or model.waits:
                    self.broken(f"{process.name} still lends {model.ref} to {model.holds} runs")
        for process in world.alive("scheduler"):
            if process.actor._placement.in_flight or len(process.actor._room):
                self.broken(f"the scheduler still holds {process.actor._placement.in_flight} seats")
            self._said(process.actor._placement)
        for process in world.alive("gateway"):
            actor = process.actor
            meters = actor._admission.tenants._tenants.values()
            if actor._running or actor._sessions.running or any(m.running for m in meters):
                self.broken(f"{process.name} still has sessions that run")
        for key in self.completed:
            self._billed(key)
        if self.fault:
            raise Broken(self.fault)

    def _said(self, placement: Placement) -> None:
        for (worker_id, _), said in self._world.ledger.breakers.items():
            for ref in ("sim@1", "other@1"):  # whether it has a breaker already or not
                mode = placement.breakers.of((worker_id, ref)).mode
                if said.mode != mode:
                    self.broken(f"an operator set {worker_id} {said.mode}, and {ref} is {mode}")
                if " at " not in (word := self.said.get(worker_id, mode)) and word != mode:
                    self.broken(f"{worker_id} was set {word}, and its breaker is {mode}")

    def _billed(self, key: Key) -> None:
        bill = self._world.ledger.bills.get(key)
        if bill is not None and bill.times == 1 and bill.outcome is Outcome.COMPLETED:
            job = self._world.ledger.by_token[key]
            if bill.usage == job.usage or job.outcome is not Outcome.COMPLETED:
                return
        at, gateway, address = self._ended[key]
        worker = self._world.processes[address]
        # Both who know of it died before either could tell: that is more than any single kill.
        if worker.died_at - at < MEMORY_S and gateway.died_at - at < MEMORY_S:
            return
        self.broken(f"{key[1]} was answered in full, and its bill is {bill}")
