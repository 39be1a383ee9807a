"""The choice of a worker: by the fleet as last seen, and what was sent there since.

Score first, then chance: among workers that are about as good, two are drawn and the less
loaded one wins, so that two schedulers with the same snapshot don't herd.
Source: Mitzenmacher, The power of two choices in randomized load balancing, 2001.

A worker that would have to load the model first is asked only where none answers for it, or where
those have been full for a while: a load takes seconds, and the memory of another model. Herding is
wanted there, for a thousand requests for a cold model should cause one load: all go to one worker,
the same for all schedulers that see the same fleet, and no second one is asked before that one is
full and somebody has waited.

Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain
from math import inf
from zlib import crc32

from actors.contracts import Fleet, HealthReport
from actors.scheduler.seat import Seat, SeatedJob
from actors.scheduler.worker_breakers import WorkerBreakers
from supervision.policies import Breaker, Ended, State

# One rank above the other, whatever lies below: workers of suspect nodes come last of all, those of
# another region where the own one has no room; the rest is a matter of degree.
SUSPECT = -16.0  # its last report, or its node's, is late
SAME_REGION = 4.0  # crossing regions costs more than any queue within one worker's slots
FREE_SLOTS = 1.0  # times the free share of the slots
WARM = 0.25  # it answers requests already: caches, pages and clocks are up
FAULTED = -1.0  # this model failed there lately, though not often enough to open its breaker
NEAR = 0.25  # scores this close count as equal
FAULT_MEMORY_S = 10.0
SHED_S = 0.1  # how long a worker that sent a request away is left alone
COLD_AFTER_S = 5.0  # of waiting while all are full, before one more worker is asked to load
SETTLED_IN_S = 6.0  # a job older than a report's interval must show up in the report


class Placement:
    """Seats by worker id. All times are the caller's clock, in seconds.

    Args:
        region: of this scheduler; workers of it are preferred.
        random: a number from 0 (inclusive) to 1 (exclusive).
        breakers: by worker id and model.
    """

    def __init__(
        self, region: str, random: Callable[[], float], breakers: WorkerBreakers | None = None
    ) -> None:
        self._region = region
        self.node = ""
        """Of this scheduler; empty while it is the only one."""
        self._random = random
        self.breakers = WorkerBreakers() if breakers is None else breakers
        self._seats: dict[str, Seat] = {}
        self._by_model: dict[str, list[tuple[Seat, Breaker]]] = {}
        self._cold: dict[str, list[Seat]] = {}
        self._loaders: dict[str, str] = {}
        """Cold models and the worker that was last asked to load each."""

    def __len__(self) -> int:
        return len(self._seats)

    def __contains__(self, worker_id: object) -> bool:
        return worker_id in self._seats

    @property
    def in_flight(self) -> int:
        """Jobs placed and not finished."""
        return sum(len(seat.jobs) for seat in self._seats.values())

    def see(self, fleet: Fleet, now: float) -> None:
        """Take over a snapshot. A worker with a new address is a new one: its jobs are gone."""
        seats: dict[str, Seat] = {}
        suspects = frozenset(fleet.suspects)
        for report in fleet.workers:
            seat = self._seats.get(report.worker_id)
            if seat is None or seat.address != report.address:
                seat = Seat(report)
            elif seat.report is not report:
                if report.sequence > seat.report.sequence:
                    self._reconcile(seat, report, now)
                seat.see(report)
            seat.suspect = report.worker_id in suspects
            seat.region_bonus = SAME_REGION if report.region == self._region else 0.0
            seat.elsewhere = self._elsewhere(report)
            seats[report.worker_id] = seat
        self._seats = seats
        by_model: dict[str, list[tuple[Seat, Breaker]]] = {}
        cold: dict[str, list[Seat]] = {}
        for seat in seats.values():
            for model in seat.models:
                breaker = self._breaker(seat, model, now)
                if not seat.report.draining:
                    by_model.setdefault(model, []).append((seat, breaker))
            if not seat.report.draining:
                for model in seat.cold:  # these get a breaker when they are asked for
                    cold.setdefault(model, []).append(seat)
        self._by_model, self._cold = by_model, cold
        for model, worker_id in list(self._loaders.items()):
            loader = seats.get(worker_id)
            if loader is None or model not in loader.cold:
                del self._loaders[model]

    def _breaker(self, seat: Seat, model_ref: str, now: float) -> Breaker:
        breaker = seat.breakers.get(model_ref)
        if breaker is None:
            breaker = self.breakers.of((seat.worker_id, model_ref))
            breaker.renew(now)  # a new start has done nothing wrong yet
            seat.breakers[model_ref] = breaker
        return breaker

    def models(self) -> Iterable[str]:
        """All models that some worker answers for."""
        return self._by_model.keys()

    def serves(self, model_ref: str, avoid: tuple[str, ...] = ()) -> bool:
        """Is there a worker that answers for it or would load it, full or not, whose id and address
        aren't in `avoid`?"""
        warm = (seat for seat, _ in self._by_model.get(model_ref, ()))
        return any(
            seat.address not in avoid and seat.worker_id not in avoid
            for seat in chain(warm, self._cold.get(model_ref, ()))
        )

    def shut_until(self, model_ref: str, now: float) -> float | None:
        """When the first breaker will let a call pass, if there are workers for this model and
        the breakers of all of them are open; infinite when an operator has to say so."""
        until: float | None = None
        cold = (self._breaker(seat, model_ref, now) for seat in self._cold.get(model_ref, ()))
        for breaker in chain((b for _, b in self._by_model.get(model_ref, ())), cold):
            if breaker.passing or breaker.state is State.HALF_OPEN or breaker.passes(now):
                return None
            opens = breaker.until(now)
            until = opens if until is None or opens < until else until
        return until

    def choose(
        self, model_ref: str, avoid: tuple[str, ...], now: float, waited_s: float = 0.0
    ) -> Seat | None:
        """The best worker with a free slot; None when there is none at the moment. `waited_s`: how
        long somebody has waited for this model."""
        best: list[Seat] = []
        best_score = -1e9
        full = False  # does a worker answer for it that can't be had now?
        for seat, breaker in self._by_model.get(model_ref, ()):
            if not breaker.passing and not breaker.passes(now):
                continue
            free = seat.slots - len(seat.jobs)
            if free <= 0 or now < seat.shed_until:
                full = True
                continue
            if avoid and (seat.address in avoid or seat.worker_id in avoid):
                full = True
                continue
            # What others have there is a preference and no bound: it is a second old.
            score = seat.region_bonus + FREE_SLOTS * (free - seat.elsewhere) / seat.slots
            if seat.jobs:
                score += WARM
            if seat.suspect:
                score += SUSPECT
            if now - breaker.failed_at < FAULT_MEMORY_S:
                score += FAULTED
            if score > best_score + NEAR:
                best, best_score = [seat], score
            elif score >= best_score - NEAR:
                best.append(seat)
                best_score = max(score, best_score)
        if not best:
            if model_ref not in self._cold or (full and waited_s < COLD_AFTER_S):
                return None
            return self._loader(model_ref, avoid, now, waited_s)
        if len(best) == 1:
            return best[0]
        first = int(self._random() * len(best))
        second = int(self._random() * (len(best) - 1))
        if second >= first:
            second += 1
        one, two = best[first], best[second]
        return one if one.load * two.slots <= two.load * one.slots else two

    def _loader(
        self, model_ref: str, avoid: tuple[str, ...], now: float, waited_s: float
    ) -> Seat | None:
        """The worker that is to load this model: the one that was asked already, as long as it may
        be; else the one with the most bytes to spare."""
        asked = self._loaders.get(model_ref)
        best: Seat | None = None
        best_key: tuple[object, ...] = ()
        for seat in self._cold[model_ref]:
            breaker = self._breaker(seat, model_ref, now)
            if avoid and (seat.address in avoid or seat.worker_id in avoid):
                continue
            if not breaker.passing and not breaker.passes(now):
                continue
            mine, loading = seat.worker_id == asked, model_ref in seat.loading
            full = len(seat.jobs) >= seat.slots or now < seat.shed_until
            if full and (waited_s >= COLD_AFTER_S or not (mine or loading)):
                continue
            key = (
                not seat.suspect,
                seat.region_bonus,
                now - breaker.failed_at >= FAULT_MEMORY_S,
                mine,
                loading,
                _spare(seat.report),
                crc32(f"{model_ref} {seat.worker_id}".encode()),
            )
            if best is None or key > best_key:
                best, best_key = seat, key
        if best is None or len(best.jobs) >= best.slots or now < best.shed_until:
            return None
        self._loaders[model_ref] = best.worker_id
        return best

    def take(
        self, seat: Seat, job_id: str, now: float, deadline: float, model_ref: str = ""
    ) -> None:
        """A job goes to `seat`, which was just chosen for `model_ref`."""
        breaker = seat.breakers.get(model_ref)
        ticket = 0 if breaker is None else breaker.enter(now)
        seat.jobs[job_id] = SeatedJob(now, deadline, breaker, ticket)

    def confirm(
        self, seat: Seat, job_id: str, fencing_token: int, owner: object, known_as: str = ""
    ) -> None:
        """The job is reserved there for `owner`, under this fencing token. `known_as`: it is older
        than its ask, and has had this id all along."""
        job = seat.jobs.get(job_id)
        if job is None:
            return
        job.fencing_token, job.owner, job.asked_as = fencing_token, owner, job_id
        if known_as and known_as != job_id:
            seat.jobs[known_as] = seat.jobs.pop(job_id)

    def find(self, job_id: str, owner: object) -> tuple[Seat, str, int] | None:
        """Where the job of `owner` is, its id and its fencing token; looks everywhere, so not for
        the common case. A gateway that has taken the job over since is another owner. One that
        nobody waited for is known to its gateway by the id that it was asked for as."""
        for seat in self._seats.values():
            for known_as, job in seat.jobs.items():
                if job_id in (known_as, job.asked_as) and job.owner in (None, owner):
                    return seat, known_as, job.fencing_token
        return None

    def release(
        self, worker_id: str, job_id: str, now: float, ended: Ended = Ended.CANCELLED
    ) -> bool:
        """A job is over there; whether that freed a slot. Safe to see twice. `ended` feeds the
        breaker; what was refused or went wrong also has the worker left alone for a moment."""
        seat = self._seats.get(worker_id)
        job = None if seat is None else seat.jobs.pop(job_id, None)
        if seat is None or job is None:
            return False
        job.left(ended, now)
        if ended is Ended.FAILED or ended is Ended.REFUSED:
            seat.shed_until = now + SHED_S
            for model_ref in [m for m, loader in self._loaders.items() if loader == worker_id]:
                del self._loaders[model_ref]
        return True

    def expire(self, now: float) -> list[str]:
        """Forget jobs whose deadline has passed without a word; which."""
        forgotten: list[str] = []
        for seat in self._seats.values():
            late = [job_id for job_id, job in seat.jobs.items() if job.deadline <= now]
            for job_id in late:
                seat.jobs.pop(job_id).left(Ended.CANCELLED, now)
            forgotten += late
        return forgotten

    def _elsewhere(self, report: HealthReport) -> int:
        if not self.node:
            return 0
        others = sum(count for node, count in report.placed_by if node != self.node)
        return min(others, report.slots)

    def _reconcile(self, seat: Seat, report: HealthReport, now: float) -> None:
        """The worker holds fewer jobs than were placed long enough ago for it to know them: the
        oldest of ours were forgotten by a gateway that died."""
        settled_in = [id_ for id_, job in seat.jobs.items() if now - job.at >= SETTLED_IN_S]
        ours = report.running + report.queued - self._elsewhere(report)
        for job_id in settled_in[: max(0, len(settled_in) - ours)]:
            seat.jobs.pop(job_id).left(Ended.CANCELLED, now)


def _spare(report: HealthReport) -> float:
    """Bytes that its models may take beyond what they do."""
    return report.budget_bytes - report.model_bytes if report.budget_bytes else inf
