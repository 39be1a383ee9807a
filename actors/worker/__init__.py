"""The worker: models, and the runs on them."""

from actors.worker.options import WorkerOptions
from actors.worker.worker import Worker

__all__ = ["Worker", "WorkerOptions"]
