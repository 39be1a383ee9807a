"""`cluster.toml`: what a node is told before it starts."""

from tether.config.policy import Policy
from tether.config.problem import ConfigInvalid, Problem
from tether.config.reading import load, model, parse, policy
from tether.config.sections import (
    Artifacts,
    Cluster,
    Config,
    Gateway,
    Http,
    Limits,
    Member,
    Model,
    Node,
    Stores,
    Worker,
)

__all__ = [
    "Artifacts",
    "Cluster",
    "Config",
    "ConfigInvalid",
    "Gateway",
    "Http",
    "Limits",
    "Member",
    "Model",
    "Node",
    "Policy",
    "Problem",
    "Stores",
    "Worker",
    "load",
    "model",
    "parse",
    "policy",
]
