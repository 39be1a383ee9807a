"""The depot: lends artifacts that lie whole in this node's cache to the other nodes."""

from actors.depot.artifact_server import Depot
from actors.depot.options import DepotOptions

__all__ = ["Depot", "DepotOptions"]
