"""Strangers: whoever hasn't shown a good key yet, with small bounds, by address and in all. Pure.

An address is a network: one of IPv6 is its /64, which is what a single customer is given
(RFC 6177), and an IPv4 address written as IPv6 is itself.
"""

from __future__ import annotations

import ipaddress
from typing import Generic, TypeVar

T = TypeVar("T")


def network_of(host: str) -> str:
    """The network that a client's address counts for; what is no IP address is its own."""
    if ":" not in host:
        return host
    try:
        address = ipaddress.IPv6Address(host.partition("%")[0])
    except ValueError:
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Address(int(address) >> 64 << 64)) + "/64"


class Crowd(Generic[T]):
    """Strangers who are in, in the order in which they came. A newcomer always gets in: where there
    is no room, whoever of its network came first has to go, or else whoever came first of all.

    Args:
        in_all: how many there may be.
        per_network: and of one network.
    """

    def __init__(self, in_all: int, per_network: int) -> None:
        self._in_all = in_all
        self._per_network = per_network
        self._networks: dict[T, str] = {}  # in the order of coming, as are the sets
        self._of: dict[str, dict[T, None]] = {}

    def __len__(self) -> int:
        return len(self._networks)

    def __contains__(self, who: T) -> bool:
        return who in self._networks

    def come(self, who: T, network: str) -> T | None:
        """Lets `who` in. Returns whom to send away for that, who doesn't count any more."""
        gone: T | None = None
        there = self._of.get(network)
        if there is not None and len(there) >= self._per_network:
            gone = next(iter(there))
        elif len(self._networks) >= self._in_all:
            gone = next(iter(self._networks))
        if gone is not None:
            self.leave(gone)
        self._networks[who] = network
        self._of.setdefault(network, {})[who] = None
        return gone

    def first(self) -> T | None:
        """Whoever came first, if anybody is in."""
        return next(iter(self._networks), None)

    def leave(self, who: T) -> None:
        """`who` left, or isn't a stranger any more. Safe to call twice."""
        network = self._networks.pop(who, None)
        if network is None:
            return
        there = self._of[network]
        del there[who]
        if not there:
            del self._of[network]


class Counter:
    """How many things strangers do at once; beyond its bounds they are refused.

    Args:
        in_all: how many there may be.
        per_network: and of one network.
    """

    def __init__(self, in_all: int, per_network: int) -> None:
        self._in_all = in_all
        self._per_network = per_network
        self._of: dict[str, int] = {}
        self.used = 0

    def enter(self, network: str) -> bool:
        """Counts one more, unless a bound is reached; then False. `leave` must follow."""
        of_network = self._of.get(network, 0)
        if self.used >= self._in_all or of_network >= self._per_network:
            return False
        self.used += 1
        self._of[network] = of_network + 1
        return True

    def leave(self, network: str) -> None:
        """One less."""
        self.used -= 1
        left = self._of[network] - 1
        if left:
            self._of[network] = left
        else:
            del self._of[network]
