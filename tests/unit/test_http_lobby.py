"""The connections of a door: who has to go for whom."""

from __future__ import annotations

import pytest

from supervision.errors import Overloaded
from tether.http.lobby import Lobby


class Guest:
    def __init__(self) -> None:
        self.out = False

    def show_out(self) -> None:
        self.out = True


def test_known_connections_give_way_to_nobody() -> None:
    lobby = Lobby(limit=2, strangers=2, per_network=2)
    guests = [Guest() for _ in range(4)]
    first = lobby.enter(guests[0], "192.0.2.1")
    first.recognized()
    second = lobby.enter(guests[1], "192.0.2.2")
    assert (len(lobby), lobby.strangers) == (2, 1)
    third = lobby.enter(guests[2], "192.0.2.3")  # the stranger gives way
    assert guests[1].out and not guests[0].out
    second.end()  # its socket is closed a little later
    assert (len(lobby), lobby.strangers) == (2, 1)
    third.recognized()
    with pytest.raises(Overloaded):
        lobby.enter(guests[3], "192.0.2.1")
    first.end()
    lobby.enter(guests[3], "192.0.2.1")
    assert (len(lobby), lobby.strangers) == (2, 1)


def test_strangers_have_a_share() -> None:
    lobby = Lobby(limit=100, strangers=3, per_network=2)
    guests = [Guest() for _ in range(6)]
    for number, guest in enumerate(guests):
        lobby.enter(guest, f"192.0.2.{number // 3}")
    assert (len(lobby), lobby.strangers) == (3, 3)
    assert [guest.out for guest in guests] == [True, True, False, True, False, False]
