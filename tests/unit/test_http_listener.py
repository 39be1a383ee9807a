"""The port of the door."""

from __future__ import annotations

import socket

import pytest

from tether.http.listener import PortTaken, listen


def test_occupied_port_is_an_error() -> None:
    with listen("127.0.0.1", 0, share=False) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortTaken) as caught:
            listen("127.0.0.1", port, share=False)
        assert str(port) in caught.value.message and "http.port" in caught.value.message


def test_doors_may_share_a_port() -> None:
    with (
        listen("127.0.0.1", 0, share=True) as one,
        listen("127.0.0.1", one.getsockname()[1], share=True) as other,
    ):
        assert other.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
