"""A whole Tether in one thread, on a clock that only jumps, under seeded misfortune."""

from bench.simulation.story import Report, run

__all__ = ["Report", "run"]
