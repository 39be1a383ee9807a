"""What the nodes of a cluster lend each other: artifacts that lie whole in their caches."""

from actors.depot.artifact_server import Depot
from actors.depot.options import DepotOptions

__all__ = ["Depot", "DepotOptions"]
