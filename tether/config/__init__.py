"""`cluster.toml`: what a node is told before it starts."""

from tether.config.policy import ModelPolicyOptions
from tether.config.problem import ConfigInvalid, Problem
from tether.config.reading import load, model, parse, policy
from tether.config.sections import (
    ArtifactOptions,
    ClusterSection,
    Config,
    GatewaySection,
    HttpSection,
    LimitsSection,
    MemberSection,
    ModelOptions,
    NodeSection,
    StoresSection,
    WorkerSection,
)

__all__ = [
    "ArtifactOptions",
    "ClusterSection",
    "Config",
    "ConfigInvalid",
    "GatewaySection",
    "HttpSection",
    "LimitsSection",
    "MemberSection",
    "ModelOptions",
    "ModelPolicyOptions",
    "NodeSection",
    "Problem",
    "StoresSection",
    "WorkerSection",
    "load",
    "model",
    "parse",
    "policy",
]
