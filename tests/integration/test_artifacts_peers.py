"""Nodes fetch artifacts from each other over mutual TLS: real nodes, with certificates."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from lending_nodes import Lending, lending

REGIONS = {"n1": "north", "n2": "north", "n3": "south"}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lending]:
    with lending(tmp_path_factory.mktemp("lending"), REGIONS) as made:
        for node in ("n1", "n3"):
            asyncio.run(made.grow(node, made.depot(node)))
        yield made


async def test_a_model_comes_from_a_peer_when_all_replicas_are_away(cluster: Lending) -> None:
    shop = await cluster.shop("n1", size=20 << 20)
    cluster.away(shop)
    held = await cluster.borrow(shop)
    assert shop.same(held.folder)
    assert len(held.entry.signatures()) == 1
