"""Where a process listens for other nodes."""

from __future__ import annotations

import pytest

from supervision.runtime.routes import ListenAddress
from supervision.runtime.tcp import bound
from tests.support.ports import free_ports


def test_processes_share_a_range_until_it_is_full():
    first = free_ports(3)
    place = ListenAddress("127.0.0.1", first, first + 2)
    held = [bound(place) for _ in range(3)]
    try:
        assert {s.getsockname()[1] for s in held} == {first, first + 1, first + 2}
        with pytest.raises(OSError, match="can't listen at"):
            bound(place)
        held.pop().close()
        held.append(bound(place))
    finally:
        for sock in held:
            sock.close()


def test_a_port_is_chosen_where_none_is_asked_for():
    with bound(ListenAddress("127.0.0.1")) as one, bound(ListenAddress("127.0.0.1")) as two:
        assert 0 < one.getsockname()[1] != two.getsockname()[1] > 0


def test_a_host_that_is_not_ours_is_refused():
    with pytest.raises(OSError, match=r"192\.0\.2\.1"):
        bound(ListenAddress("192.0.2.1"))
