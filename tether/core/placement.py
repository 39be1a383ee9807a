"""Which worker gets a request: the fleet as last seen, and what was sent there since.

Score first, then chance: among workers that are about as good, two are drawn and the less
loaded one wins, so that two schedulers with the same snapshot don't herd.
Source: Mitzenmacher, The power of two choices in randomized load balancing, 2001.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tether.contracts import Fleet, HealthReport

SAME_REGION = 2.0  # crossing regions costs more than any queue within one worker's slots
FREE_SLOTS = 1.0  # times the free share of the slots
WARM = 0.25  # it answers requests already: caches, pages and clocks are up
SUSPECT = -1.5  # its last report is late
FAULTED = -1.0  # a request broke off there lately
NEAR = 0.25  # scores this close count as equal
FAULT_MEMORY_S = 10.0
SHED_S = 0.1  # how long a worker that sent a request away is left alone
SETTLED_IN_S = 6.0  # a job older than a report's interval must show up in the report


class Seat:
    """One start of one worker, with the jobs that were placed on it."""

    __slots__ = (
        "address",
        "faulted_until",
        "jobs",
        "models",
        "region_bonus",
        "report",
        "shed_until",
        "slots",
        "suspect",
        "worker_id",
    )

    def __init__(self, report: HealthReport) -> None:
        self.worker_id = report.worker_id
        self.address = report.address
        # id → (placed at, deadline, fence or 0 before it is known), in the order of placing
        self.jobs: dict[str, tuple[float, float, int]] = {}
        self.faulted_until = 0.0
        self.shed_until = 0.0
        self.suspect = False
        self.see(report)

    def see(self, report: HealthReport) -> None:
        """A newer report of the same start."""
        self.report = report
        self.slots = report.slots
        self.models = frozenset(report.models)
        self.region_bonus = 0.0


class Placement:
    """Seats by worker id. All times are the caller's clock, in seconds.

    Args:
        region: of this scheduler; workers of it are preferred.
        random: a number from 0 (inclusive) to 1 (exclusive).
    """

    def __init__(self, region: str, random: Callable[[], float]) -> None:
        self._region = region
        self._random = random
        self._seats: dict[str, Seat] = {}
        self._by_model: dict[str, list[Seat]] = {}

    def __len__(self) -> int:
        return len(self._seats)

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
            seats[report.worker_id] = seat
        self._seats = seats
        by_model: dict[str, list[Seat]] = {}
        for seat in seats.values():
            if not seat.report.draining:
                for model in seat.models:
                    by_model.setdefault(model, []).append(seat)
        self._by_model = by_model

    def models(self) -> Iterable[str]:
        """All models that some worker answers for."""
        return self._by_model.keys()

    def serves(self, model_ref: str, avoid: tuple[str, ...] = ()) -> bool:
        """Is there a worker for it, full or not, whose id and address aren't in `avoid`?"""
        return any(
            seat.address not in avoid and seat.worker_id not in avoid
            for seat in self._by_model.get(model_ref, ())
        )

    def choose(self, model_ref: str, avoid: tuple[str, ...], now: float) -> Seat | None:
        """The best worker with a free slot; None when there is none at the moment."""
        best: list[Seat] = []
        best_score = -1e9
        for seat in self._by_model.get(model_ref, ()):
            free = seat.slots - len(seat.jobs)
            if free <= 0 or now < seat.shed_until:
                continue
            if avoid and (seat.address in avoid or seat.worker_id in avoid):
                continue
            score = seat.region_bonus + FREE_SLOTS * free / seat.slots
            if seat.jobs:
                score += WARM
            if seat.suspect:
                score += SUSPECT
            if now < seat.faulted_until:
                score += FAULTED
            if score > best_score + NEAR:
                best, best_score = [seat], score
            elif score >= best_score - NEAR:
                best.append(seat)
                best_score = max(score, best_score)
        if len(best) <= 1:
            return best[0] if best else None
        first = int(self._random() * len(best))
        second = int(self._random() * (len(best) - 1))
        if second >= first:
            second += 1
        one, two = best[first], best[second]
        return one if len(one.jobs) * two.slots <= len(two.jobs) * one.slots else two

    def take(self, seat: Seat, job_id: str, now: float, deadline: float) -> None:
        """A job goes to `seat`."""
        seat.jobs[job_id] = (now, deadline, 0)

    def confirm(self, seat: Seat, job_id: str, fence: int) -> None:
        """The job is reserved there, under this fence."""
        job = seat.jobs.get(job_id)
        if job is not None:
            seat.jobs[job_id] = (job[0], job[1], fence)

    def find(self, job_id: str) -> tuple[Seat, int] | None:
        """Where a job is, and its fence; looks everywhere, so not for the common case."""
        for seat in self._seats.values():
            if job_id in seat.jobs:
                return seat, seat.jobs[job_id][2]
        return None

    def release(self, worker_id: str, job_id: str) -> bool:
        """A job is over there; whether that freed a slot. Safe to see twice."""
        seat = self._seats.get(worker_id)
        return seat is not None and seat.jobs.pop(job_id, None) is not None

    def blame(self, worker_id: str, now: float) -> None:
        """A job broke off there, or was sent away."""
        seat = self._seats.get(worker_id)
        if seat is not None:
            seat.faulted_until = now + FAULT_MEMORY_S
            seat.shed_until = now + SHED_S

    def expire(self, now: float) -> int:
        """Forget jobs whose deadline has passed without a word; how many."""
        forgotten = 0
        for seat in self._seats.values():
            late = [job_id for job_id, (_, deadline, _) in seat.jobs.items() if deadline <= now]
            for job_id in late:
                del seat.jobs[job_id]
            forgotten += len(late)
        return forgotten

    @staticmethod
    def _reconcile(seat: Seat, report: HealthReport, now: float) -> None:
        """The worker holds fewer jobs than were placed long enough ago for it to know them: the
        oldest of ours were forgotten by a gateway that died."""
        settled_in = [job for job, (at, _, _) in seat.jobs.items() if now - at >= SETTLED_IN_S]
        for job_id in settled_in[: max(0, len(settled_in) - report.running - report.queued)]:
            del seat.jobs[job_id]
