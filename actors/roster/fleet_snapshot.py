"""The living workers: the last word of each, until it has been silent for too long. Pure."""

from __future__ import annotations

from collections import OrderedDict

from actors.contracts import Fleet, HealthReport

EXPIRY_S = 15.0  # three reports of 5 s
SUSPECT_S = 8.0  # one report was missed
MAX_TOMBSTONES = 4096


class FleetSnapshot:
    """The fleet by worker id.

    A report counts only if (epoch, sequence) is above the last one seen of that worker, and
    this is remembered after the worker is gone: so neither a delayed nor a replayed report
    brings back the dead. Only a new start, which has a higher epoch, does.
    """

    def __init__(
        self,
        expiry_s: float = EXPIRY_S,
        suspect_s: float = SUSPECT_S,
        max_workers: int = 4096,
    ) -> None:
        self._expiry_s = expiry_s
        self._suspect_s = suspect_s
        self._max = max_workers
        self._alive: dict[str, tuple[HealthReport, float]] = {}
        self._gone: OrderedDict[str, tuple[int, int, bool]] = OrderedDict()
        self._suspects: frozenset[str] = frozenset()
        self._version = 0
        self._fleet: Fleet | None = None
        self.refused = 0

    def __len__(self) -> int:
        return len(self._alive)

    def observe(self, report: HealthReport, now: float) -> bool:
        """Take in a report; whether the fleet changed by it."""
        stamp = (report.epoch, report.sequence)
        known = self._alive.get(report.worker_id)
        if known is not None:
            old = known[0]
            if stamp <= (old.epoch, old.sequence):
                self.refused += 1
                return False
        else:
            last = self._gone.get(report.worker_id)
            if last is not None and (stamp <= last[:2] or (last[2] and stamp[0] == last[0])):
                self.refused += 1
                return False
            if len(self._alive) >= self._max:
                self.refused += 1
                return False
            self._gone.pop(report.worker_id, None)
        self._alive[report.worker_id] = (report, now)
        if known is not None and not differs(known[0], report):
            if report.worker_id in self._suspects:
                self._suspects -= {report.worker_id}
                return self._changed()
            return False
        self._suspects -= {report.worker_id}
        return self._changed()

    def lost(self, worker_id: str, epoch: int) -> bool:
        """The connection to this start of the worker is gone; whether the fleet changed."""
        known = self._alive.get(worker_id)
        if known is None or known[0].epoch != epoch:
            return False
        self._bury(worker_id, dead=True)
        return self._changed()

    def expire(self, now: float) -> bool:
        """Drop who was silent for too long; whether the fleet changed. A worker that was
        dropped so may come back in the same epoch: silence is not death."""
        late = [
            worker_id for worker_id, (_, at) in self._alive.items() if now - at >= self._expiry_s
        ]
        for worker_id in late:
            self._bury(worker_id, dead=False)
        suspects = frozenset(
            worker_id for worker_id, (_, at) in self._alive.items() if now - at >= self._suspect_s
        )
        if suspects != self._suspects or late:
            self._suspects = suspects
            return self._changed()
        return False

    @property
    def fleet(self) -> Fleet:
        """All who are alive; the same object until something changes."""
        if self._fleet is None:
            self._fleet = Fleet(
                version=self._version,
                workers=tuple(report for report, _ in self._alive.values()),
                suspects=tuple(sorted(self._suspects)),
            )
        return self._fleet

    def _bury(self, worker_id: str, *, dead: bool) -> None:
        report, _ = self._alive.pop(worker_id)
        self._gone[worker_id] = (report.epoch, report.sequence, dead)
        self._suspects -= {worker_id}
        while len(self._gone) > MAX_TOMBSTONES:
            self._gone.popitem(last=False)

    def _changed(self) -> bool:
        self._version += 1
        self._fleet = None
        return True


def differs(old: HealthReport, new: HealthReport) -> bool:
    """Did anything change that a scheduler looks at?"""
    return (
        old.epoch != new.epoch
        or old.address != new.address
        or old.models != new.models
        or old.running != new.running
        or old.queued != new.queued
        or old.slots != new.slots
        or old.draining != new.draining
        or old.region != new.region
        or old.gpu_class != new.gpu_class
        or old.resume_tag != new.resume_tag
        or old.digests != new.digests
        or old.placed_by != new.placed_by
        or old.loadable != new.loadable
        or old.loading != new.loading
    )
