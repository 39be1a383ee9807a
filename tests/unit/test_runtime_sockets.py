"""Paths of sockets, which have a bound."""

from __future__ import annotations

import pytest

from supervision.runtime import Address
from supervision.runtime.sockets import socket_path


def test_a_socket_path_that_is_too_long_says_so():
    address = Address("n1", "123-abcdef01")
    assert socket_path("/run/tether", address) == "/run/tether/n1/123-abcdef01"
    with pytest.raises(ValueError, match="shorter run directory"):
        socket_path("/x" * 60, address)
