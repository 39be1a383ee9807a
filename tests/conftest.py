"""What holds for all tests: no property has a time limit for an example, for a machine that is
busy isn't wrong."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile(
    "tether", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("tether")
