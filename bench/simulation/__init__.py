"""A whole Tether in one thread, on a clock that only jumps, under seeded misfortune."""

from bench.simulation.world import Report, run

__all__ = ["Report", "run"]
