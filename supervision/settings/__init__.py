"""Settings: the sections of a configuration, how they are read, what is wrong with them."""

from supervision.settings.problem import ConfigInvalid, Problem
from supervision.settings.reading import read_section
from supervision.settings.section import Port, Positive, Seconds, Section, Word

__all__ = [
    "ConfigInvalid",
    "Port",
    "Positive",
    "Problem",
    "Seconds",
    "Section",
    "Word",
    "read_section",
]
