"""Options of a worker, checked when made."""

from __future__ import annotations

import pytest

from actors.contracts import (
    ModelCard,
)
from actors.worker.options import WorkerOptions

CARD = ModelCard(name="echo", version="1", engine="echo")


def test_options_are_validated() -> None:
    good = {"worker_id": "w", "node_id": "n", "cards": (CARD,), "cache_dir": "/x"}
    WorkerOptions(**good)  # type: ignore[arg-type]
    for field, value in (("slots", 0), ("cards", ()), ("cards", (CARD, CARD)), ("queue", -1)):
        with pytest.raises(ValueError, match="worker w"):
            WorkerOptions(**(good | {field: value}))  # type: ignore[arg-type]
