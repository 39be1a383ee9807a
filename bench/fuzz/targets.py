"""The targets by their names. Each is imported when it is needed, so that what one imports is
instrumented for it alone."""

from __future__ import annotations

import importlib
from typing import Final

from bench.fuzz.target import Target

#: name: where its `Target` is
TARGETS: Final = {
    "greetings": "bench.fuzz.connections:GREETINGS",
    "frames": "bench.fuzz.connections:FRAMES",
    "system messages": "bench.fuzz.system_messages:TARGET",
    "contracts": "bench.fuzz.contracts:TARGET",
    "announcements": "bench.fuzz.announcements:TARGET",
    "kept answers": "bench.fuzz.kept_answers:TARGET",
    "HTTP": "bench.fuzz.http_messages:TARGET",
    "HTTP bodies": "bench.fuzz.http_bodies:TARGET",
    "manifests": "bench.fuzz.artifacts:MANIFESTS",
    "signatures": "bench.fuzz.artifacts:SIGNATURES",
    "statements": "bench.fuzz.artifacts:STATEMENTS",
    "trust stores": "bench.fuzz.artifacts:TRUST_STORES",
    "artifact names": "bench.fuzz.artifacts:NAMES",
    "model files": "bench.fuzz.model_files:FILES",
    "model folders": "bench.fuzz.model_files:FOLDERS",
    "adapters": "bench.fuzz.model_files:ADAPTERS",
}


def target(name: str) -> Target:
    """
    Raises:
        KeyError: there is none of this name.
    """
    module, _, attribute = TARGETS[name].partition(":")
    found: Target = getattr(importlib.import_module(module), attribute)
    return found
