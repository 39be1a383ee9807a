"""`cluster.toml`: what a node is told before it starts."""

from tether.config.reading import load, parse
from tether.config.sections import (
    ClusterSection,
    Config,
    GatewaySection,
    HttpSection,
    LimitsSection,
    MemberSection,
    NodeSection,
    StoresSection,
    WorkerSection,
)

__all__ = [
    "ClusterSection",
    "Config",
    "GatewaySection",
    "HttpSection",
    "LimitsSection",
    "MemberSection",
    "NodeSection",
    "StoresSection",
    "WorkerSection",
    "load",
    "parse",
]
