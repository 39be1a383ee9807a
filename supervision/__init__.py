"""Erlang/OTP's supervision semantics: a pure tree, and the actors that carry it out."""

from supervision.backoff import Backoff
from supervision.child import Supervised
from supervision.dynamic import DynamicSupervisor
from supervision.partition import PartitionSupervisor
from supervision.root import Root, start_tree, stop_tree
from supervision.spec import (
    ChildSpec,
    DynamicOptions,
    Kind,
    PartitionOptions,
    Restart,
    Shutdown,
    SupervisorOptions,
)
from supervision.strategy import AutoShutdown, Strategy
from supervision.supervisor import Supervisor
from supervision.tree_view import TreeView, index_of

__all__ = [
    "AutoShutdown",
    "Backoff",
    "ChildSpec",
    "DynamicOptions",
    "DynamicSupervisor",
    "Kind",
    "PartitionOptions",
    "PartitionSupervisor",
    "Restart",
    "Root",
    "Shutdown",
    "Strategy",
    "Supervised",
    "Supervisor",
    "SupervisorOptions",
    "TreeView",
    "index_of",
    "start_tree",
    "stop_tree",
]
