"""The connections of a door: known ones, on which a good key was shown, and those of strangers."""

from __future__ import annotations

from typing import Final, Protocol

from supervision.errors import Overloaded
from supervision.telemetry import bounds
from tether.http.strangers import Crowd, network_of

VISIT: Final = "tether.visit"  # under which a request's ASGI scope has the `Visit`


class Visitor(Protocol):
    """What stands in the lobby."""

    def show_out(self) -> None:
        """Close it at once, without a word."""
        ...


class Visit:
    """One connection's stay. `network` is what its address counts for; `stranger` until a good key
    was shown on it."""

    __slots__ = ("_lobby", "connection", "network", "stranger")

    def __init__(self, lobby: Lobby, connection: Visitor, network: str) -> None:
        self._lobby = lobby
        self.connection: Visitor | None = connection
        self.network = network
        self.stranger = True

    def recognized(self) -> None:
        """A good key was shown: from now on it gives way to no stranger."""
        self.stranger = False
        self._lobby.recognized(self)

    def end(self) -> None:
        """It is closed. Safe to call twice. What its requests have of it keeps no connection."""
        self._lobby.ended(self)
        self.connection = None


class Lobby:
    """Lets connections in. Strangers have a share only, and the first of them gives way to a
    newcomer; a known connection gives way to nobody.

    Args:
        limit: connections in all.
        strangers: of strangers.
        per_network: of strangers of one network, see `strangers`.
    """

    def __init__(self, limit: int, strangers: int, per_network: int) -> None:
        self._limit = limit
        self._visits: set[Visit] = set()
        self._strangers: Crowd[Visit] = Crowd(strangers, per_network)
        self._used = bounds.used.labels("door_connections")
        self._refused = bounds.refused.labels("door_connections")
        self._strange = bounds.used.labels("door_strangers")
        self._sent_away = bounds.refused.labels("door_strangers")

    def __len__(self) -> int:
        return len(self._visits)

    @property
    def strangers(self) -> int:
        """How many of them nobody knows."""
        return len(self._strangers)

    def enter(self, connection: Visitor, host: str) -> Visit:
        """A new connection from there; `Visit.end` must follow.

        Raises:
            Overloaded: all are taken, by known ones.
        """
        visit = Visit(self, connection, network_of(host))
        if len(self._visits) >= self._limit:
            first = self._strangers.first()
            if first is None:
                self._refused.inc()
                raise Overloaded(f"{self._limit} connections are open already")
            self._show_out(first)
        gone = self._strangers.come(visit, visit.network)
        self._visits.add(visit)
        self._used.inc()
        self._strange.inc()
        if gone is not None:
            self._strange.dec()
            self._show_out(gone)
        return visit

    def recognized(self, visit: Visit) -> None:
        """See `Visit.recognized`."""
        self._leave_strangers(visit)

    def ended(self, visit: Visit) -> None:
        """See `Visit.end`."""
        self._leave_strangers(visit)
        if visit in self._visits:
            self._visits.discard(visit)
            self._used.dec()

    def _leave_strangers(self, visit: Visit) -> None:
        if visit in self._strangers:
            self._strangers.leave(visit)
            self._strange.dec()

    def _show_out(self, visit: Visit) -> None:
        self._sent_away.inc()
        connection = visit.connection
        visit.end()
        if connection is not None:
            connection.show_out()
