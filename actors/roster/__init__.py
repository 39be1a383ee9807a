"""The roster: which workers are alive, on this node and on all others."""

from actors.roster.options import OtherNode, RosterOptions
from actors.roster.roster import Roster

__all__ = ["OtherNode", "Roster", "RosterOptions"]
