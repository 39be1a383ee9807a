"""What holds for all tests: no property has a time limit for an example, for a machine that is
busy isn't wrong; and `scripts/prove properties` tries each with many more examples."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

from tests.support.properties import THOROUGH, examples

settings.register_profile(
    "tether", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.register_profile("thorough", settings.get_profile("tether"), max_examples=examples(100))
settings.load_profile("thorough" if THOROUGH else "tether")
