"""Engines: what runs a loaded model, behind one protocol."""

from tether.engines.engine import (
    Capabilities,
    Delta,
    Engine,
    EngineOptions,
    Job,
    Snapshot,
    create,
    host,
)
from tether.engines.weights import prepare

__all__ = [
    "Capabilities",
    "Delta",
    "Engine",
    "EngineOptions",
    "Job",
    "Snapshot",
    "create",
    "host",
    "prepare",
]
