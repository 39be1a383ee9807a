"""The roster: which workers are alive."""

from actors.roster.roster import Roster, RosterOptions

__all__ = ["Roster", "RosterOptions"]
