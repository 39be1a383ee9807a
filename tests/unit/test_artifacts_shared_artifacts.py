"""What a node lends: how much at once, for how long it is held, and what is never lent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from actors.artifacts.bandwidth import Bandwidth
from actors.artifacts.shared_artifacts import SharedArtifacts
from actors.artifacts.trust import Trust
from actors.errors import ArtifactLost, ArtifactRefused
from supervision.errors import BadRequest, Overloaded
from tests.support.artifact_shop import Shop, flip, now
from tests.support.waiting import until

WEIGHTS = "model.safetensors"


@pytest.fixture
async def shops(tmp_path: Path) -> list[Shop]:
    """Three models in one cache."""
    made = []
    for number in range(3):
        path = tmp_path / str(number)
        path.mkdir()
        shop = Shop(path, size=1000, seed=number)
        shop.cache = made[0].cache if made else shop.cache
        await shop.push()
        (await shop.pull().obtain(shop.digest)).release()
        made.append(shop)
    return made


@pytest.fixture
def shelf(shops: list[Shop]) -> Callable[..., SharedArtifacts]:
    """Trust is off, unless somebody says whose counts."""

    def made(trust: Callable[[], Trust | None] = lambda: None, **options: float) -> SharedArtifacts:
        return SharedArtifacts(shops[0].cache, trust, now, **options)  # type: ignore[arg-type]

    return made


async def test_at_most_so_many_are_held_and_idle_ones_give_way(
    shops: list[Shop], shelf: Callable[..., SharedArtifacts]
) -> None:
    full = shelf(most=2)
    one, two = [await full.take(shop.digest) for shop in shops[:2]]
    assert await full.take(shops[0].digest) is one  # it is held already
    with pytest.raises(Overloaded) as refused:
        await full.take(shops[2].digest)
    assert refused.value.retry_after_s
    full.give_back(two)
    three = await full.take(shops[2].digest)
    cache = shops[0].cache
    assert [cache.evict(shop.digest) for shop in shops] == [False, True, False]
    full.give_back(three)
    full.close()
    assert cache.evict(shops[2].digest)


async def test_it_is_held_while_it_is_read_and_a_while_after(
    shops: list[Shop], shelf: Callable[..., SharedArtifacts]
) -> None:
    brief = shelf(idle_s=0.0)
    digest, cache = shops[0].digest, shops[0].cache
    lent = await brief.take(digest)
    [part] = lent.block(WEIGHTS, 0)
    part.open()
    brief.tidy()
    assert not cache.evict(digest)
    assert part.read(0, part.size) == (shops[0].folder / WEIGHTS).read_bytes()
    part.close()
    part.close()
    brief.give_back(lent)

    def let_go() -> bool:
        brief.tidy()
        return cache.evict(digest)

    await until(let_go)
    with pytest.raises(ArtifactLost):
        await brief.take(digest)


async def test_who_stops_waiting_leaves_nothing_open(
    shops: list[Shop], shelf: Callable[..., SharedArtifacts]
) -> None:
    here = shelf(idle_s=0.0, judge_s=0.0)  # each looks, in a thread
    digest = shops[0].digest
    for _ in range(20):
        waiting = asyncio.create_task(here.take(digest))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    await until(lambda: not here._looking)
    assert len(here._out) == 1

    def let_go() -> bool:
        here.tidy()
        return shops[0].cache.evict(digest)

    await until(let_go)


async def test_what_changed_or_is_not_trusted_is_not_lent(
    shops: list[Shop], shelf: Callable[..., SharedArtifacts]
) -> None:
    first, second = shops[:2]
    trusting = shelf(lambda: Trust.load(first.trust))
    trusting.give_back(await trusting.take(first.digest))
    with pytest.raises(ArtifactRefused, match="nobody here trusts"):
        await trusting.take(second.digest)
    anybody = shelf(judge_s=0.0)
    lent = await anybody.take(first.digest)
    flip(first.cache.whole(first.digest).files / WEIGHTS)
    [part] = lent.block(WEIGHTS, 0)
    with pytest.raises(ArtifactRefused, match="was changed here"):
        part.open()
    part.close()
    anybody.give_back(lent)
    with pytest.raises(ArtifactRefused, match="was changed since it was verified"):
        await anybody.take(first.digest)
    assert not anybody._out
    with pytest.raises(BadRequest, match="is no digest"):
        await anybody.take(f"../whole/{first.digest}")


def test_how_far_a_bandwidth_is_behind() -> None:
    pace = Bandwidth(100)
    assert pace.behind(5.0) == 0.0
    assert pace.take(50, 5.0) == 0.0
    assert pace.take(100, 5.0) == pytest.approx(0.5)
    assert pace.behind(5.0) == pytest.approx(1.5)
    assert pace.behind(6.0) == pytest.approx(0.5)
    assert pace.behind(7.0) == 0.0
    assert Bandwidth(0).behind(1.0) == 0.0
