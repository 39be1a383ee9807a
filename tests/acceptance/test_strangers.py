"""Strangers at the door of a whole node: the quick part of `scripts/prove strangers`."""

from __future__ import annotations

import pytest

from tests.acceptance.strangers_prove import MAX_MIB, wave
from tests.support.node_process import Node


@pytest.mark.parametrize("addresses", [8, 1])
async def test_strangers_take_nothing_from_a_tenant(
    echo_node: Node, addresses: int, measured: list[str]
) -> None:
    case = await wave(echo_node, 5.0, half=300, slow=300, addresses=addresses)
    measured.append(f"strangers: {case}")
    assert set(case.beside.statuses) == {"200"}
    assert case.peak_mib < MAX_MIB
