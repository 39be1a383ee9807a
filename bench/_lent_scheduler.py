"""The scheduler for `bench/faults.py`, in a module of its own: a spawned process imports what its
class's module does, and its restart is timed."""

from __future__ import annotations

from actors.scheduler import Scheduler, SchedulerOptions


class LentScheduler(Scheduler):
    """The real one, whose needs are in another branch of the tree."""

    async def start(self, options: SchedulerOptions) -> None:
        self.needs = {
            need: await self.tree.wait(f"control/{need}", self.start_timeout_s)
            for need in ("roster", "reservation")
        }
        await super().start(options)
