"""The scheduler: which worker gets a request, and when."""

from actors.scheduler.scheduler import Scheduler, SchedulerOptions

__all__ = ["Scheduler", "SchedulerOptions"]
