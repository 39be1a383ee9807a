"""Front doors and keys that they haven't seen: how many are asked for at once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from actors.contracts import Authenticated
from supervision.errors import Overloaded
from tether.http.doorkeeper import AT_ONCE, LOOK_UPS_OF_NETWORK, Doorkeeper


class SlowGateways:
    """Answers once it may."""

    def __init__(self) -> None:
        self.may = asyncio.Event()
        self.asked: list[str] = []

    async def authenticate(self, credential: str) -> Authenticated:
        self.asked.append(credential)
        await self.may.wait()
        return Authenticated(tenant_id="acme", key_id="k", operator=False)


async def test_the_first_requests_of_a_tenant_may_come_at_once() -> None:
    gateways: Any = SlowGateways()
    keeper = Doorkeeper(gateways)
    many = [asyncio.create_task(keeper.admit({}, "tether-acme-new")) for _ in range(200)]
    await asyncio.sleep(0)
    gateways.may.set()
    assert {who.tenant_id for who in await asyncio.gather(*many)} == {"acme"}
    assert gateways.asked == ["tether-acme-new"]


async def test_keys_that_nobody_has_seen_are_bounded() -> None:
    gateways: Any = SlowGateways()
    keeper = Doorkeeper(gateways)
    several = [
        asyncio.create_task(keeper.admit({}, f"tether-acme-{number}"))
        for number in range(LOOK_UPS_OF_NETWORK)
    ]
    for _ in range(3):
        await asyncio.sleep(0)
    assert len(gateways.asked) == AT_ONCE  # the others wait for their turn
    with pytest.raises(Overloaded, match="never seen"):
        await keeper.admit({}, "tether-acme-more")
    gateways.may.set()
    await asyncio.gather(*several)
    assert len(gateways.asked) == LOOK_UPS_OF_NETWORK
