"""An actor that does nothing, in a module that loads nothing: what any restart costs at least."""

from __future__ import annotations

from supervision.child import Supervised


class Bare(Supervised):
    """What `bench/_restart_times.py` measures the others by."""
