"""TCP ports for those who must know one before they listen."""

from __future__ import annotations

import random
import socket
from typing import Final

# Below those that Linux hands out by itself (ip_local_port_range), to connections and to whoever
# binds port 0: so nobody takes one by chance between this look and its use.
_FIRST: Final = 20_000
_LAST: Final = 32_000


def free_port(host: str = "127.0.0.1") -> int:
    """One that nobody holds now."""
    return free_ports(1, host)


def free_ports(count: int, host: str = "127.0.0.1") -> int:
    """The first of `count` in a row that nobody holds now."""
    for _ in range(1000):
        first = random.SystemRandom().randrange(_FIRST, _LAST - count)
        taken = []
        try:
            for port in range(first, first + count):
                taken.append(socket.socket())
                taken[-1].bind((host, port))
        except OSError:
            continue
        finally:
            for sock in taken:
                sock.close()
        return first
    raise AssertionError(f"no {count} ports of {host} are free")
