"""Which source a block comes from: peers of the own region, replicas, peers of other regions."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from actors.artifacts import layout, peers, sources
from actors.artifacts.manifest import BLOCK, encode
from actors.artifacts.peers import ArtifactPeer, PeerFault, Trouble
from actors.artifacts.pull import Pull
from actors.artifacts.replica import FaultKind
from actors.artifacts.trust import Trust
from actors.errors import ArtifactLost, ArtifactRefused
from tests.support.artifact_shop import MIB, Shop, now


class Holder:
    """A peer that has the shop's model in memory; `spoil` may change, or refuse, what it sends."""

    def __init__(self, shop: Shop, node: str) -> None:
        self.node = node
        self.given: Counter[str] = Counter()
        self.spoil: Callable[[str, bytearray], bytearray] = lambda what, content: content
        self.signed = [shop.bundle()]
        self._shop = shop

    async def manifest(self, most: int) -> bytearray:
        return await self._give("manifest", bytearray(encode(self._shop.manifest)))

    async def signatures(self, most: int) -> list[bytes]:
        return [bytes(await self._give("signature", bytearray(one))) for one in self.signed]

    async def block(self, file: str, index: int, size: int) -> bytearray:
        whole = (self._shop.folder / file).read_bytes()
        return await self._give("block", bytearray(whole[index * BLOCK :][:size]))

    async def _give(self, what: str, content: bytearray) -> bytearray:
        await asyncio.sleep(0)
        content = self.spoil(what, content)
        self.given[what] += 1
        return content

    def fault(self, trouble: Trouble, retry_after_s: float | None = None) -> PeerFault:
        return PeerFault(self.node, trouble, f"node {self.node}: no", retry_after_s=retry_after_s)


class Around:
    """Peers that are near and far, of which some may be left alone."""

    def __init__(self, near: Sequence[Holder] = (), far: Sequence[Holder] = ()) -> None:
        self._near, self._far = near, far
        self.left_alone: dict[str, float] = {}
        self.asked: Counter[str] = Counter()

    async def near(self, artifact: str) -> Sequence[ArtifactPeer]:
        self.asked["near"] += 1
        return [peer for peer in self._near if not self.left_alone.get(peer.node)]

    async def far(self, artifact: str) -> Sequence[ArtifactPeer]:
        self.asked["far"] += 1
        return [peer for peer in self._far if not self.left_alone.get(peer.node)]

    def leave_alone(self, node: str, seconds: float) -> None:
        self.left_alone[node] = seconds

    async def aclose(self) -> None:
        return


@pytest.fixture
async def shop(tmp_path: Path) -> Shop:
    shop = Shop(tmp_path, size=17 * MIB)
    await shop.push()
    return shop


async def load(shop: Shop, around: Around, *, away: bool = False) -> None:
    """Fetch the model, and hold it against what was pushed."""
    replicas = shop.replicas()
    if away:
        for number in range(3):
            store = shop.store(number)
            if store.exists():
                store.rename(store.with_suffix(".away"))
    pull = Pull(shop.cache, replicas, Trust.load(shop.trust), now, around)
    held = await pull.obtain(shop.digest)
    assert shop.same(held.folder)
    held.release()
    shop.cache.evict(shop.digest)


BLOCKS = 7  # three of the weights, four small files


async def test_near_peers_share_it_and_no_replica_is_asked(shop: Shop) -> None:
    near, far = [Holder(shop, "n1"), Holder(shop, "n2")], Holder(shop, "s1")
    around = Around(near, [far])
    for number in range(3):  # a replica that is asked would fail
        shop.store(number).rename(shop.path / f"away-{number}")
    await load(shop, around)
    given = [peer.given["block"] for peer in near]
    assert sum(given) == BLOCKS and min(given) >= BLOCKS // 2
    assert (near[0].given + near[1].given)["signature"] == 1  # the first one counted
    assert not far.given and not around.asked["far"]


async def test_without_near_peers_the_replicas_go_before_far_ones(shop: Shop) -> None:
    far = Holder(shop, "s1")
    around = Around([], [far])
    await load(shop, around)
    assert not far.given and not around.asked["far"]
    await load(shop, around, away=True)
    assert far.given == {"manifest": 1, "signature": 1, "block": BLOCKS}


@pytest.mark.parametrize("what", ["block", "manifest"])
async def test_a_peer_with_bad_bytes_is_passed_over_and_left_alone(shop: Shop, what: str) -> None:
    bad = Holder(shop, "bad")

    def flip(kind: str, content: bytearray) -> bytearray:
        if kind == what:
            content[len(content) // 2] ^= 1
        return content

    bad.spoil = flip
    around = Around([bad])
    await load(shop, around)
    assert bad.given[what] >= 1
    assert around.left_alone == {"bad": Trouble.CORRUPT.rest_s}
    given = Counter(bad.given)
    await load(shop, around)
    assert bad.given == given  # it wasn't asked any more


async def test_bad_bytes_are_named_when_nobody_else_has_it(shop: Shop) -> None:
    bad = Holder(shop, "bad")

    def cut(kind: str, content: bytearray) -> bytearray:
        return content[:-1] if kind == "block" else content

    bad.spoil = cut
    with pytest.raises(ArtifactLost, match=r"node bad sent other bytes for block \d of"):
        await load(shop, Around([bad]), away=True)
    assert not list((shop.cache.root / "whole").glob("*"))


async def test_a_peer_that_dies_costs_the_blocks_under_way_only(shop: Shop) -> None:
    dying, other = Holder(shop, "dying"), Holder(shop, "other")

    def die(kind: str, content: bytearray) -> bytearray:
        if kind == "block" and dying.given["block"] >= 2:
            raise dying.fault(Trouble.UNREACHABLE)
        return content

    dying.spoil = die
    around = Around([dying, other])
    await load(shop, around, away=True)
    assert dying.given["block"] == 2
    assert other.given["block"] == BLOCKS - 2
    assert around.left_alone == {"dying": Trouble.UNREACHABLE.rest_s}


async def test_a_busy_peer_is_asked_again_and_a_replica_meanwhile(shop: Shop) -> None:
    busy = Holder(shop, "busy")
    refusals = [0]

    def refuse(kind: str, content: bytearray) -> bytearray:
        if kind == "block" and refusals[0] < 3:
            refusals[0] += 1
            raise busy.fault(Trouble.BUSY, 0.01)
        return content

    busy.spoil = refuse
    around = Around([busy])
    await load(shop, around)  # the replicas gave what it refused
    assert busy.given["block"] < BLOCKS and not around.left_alone
    busy.given.clear()
    refusals[0] = 0
    await load(shop, around, away=True)  # nobody but the busy one has it: it is waited for
    assert busy.given["block"] == BLOCKS
    assert refusals[0] == 3


async def test_signatures_are_waited_for_as_well(shop: Shop) -> None:
    busy = Holder(shop, "busy")
    refusals = [0]

    def refuse(kind: str, content: bytearray) -> bytearray:
        if kind == "signature" and refusals[0] < 2:
            refusals[0] += 1
            raise busy.fault(Trouble.BUSY)
        return content

    busy.spoil = refuse
    await load(shop, Around([busy]), away=True)
    assert refusals[0] == 2


async def test_patience_with_busy_peers_ends(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "PATIENCE_S", 0.0)
    busy = Holder(shop, "busy")

    def refuse(kind: str, content: bytearray) -> bytearray:
        raise busy.fault(Trouble.BUSY, 0.0)

    busy.spoil = refuse
    with pytest.raises(ArtifactLost, match="node busy: no"):
        await load(shop, Around([busy]), away=True)


async def test_whoever_has_got_it_meanwhile_is_found(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fleet starts from one node that is busy: others help as soon as they have it."""
    monkeypatch.setattr(peers, "LOOK_S", 0.0)
    gone, late = Holder(shop, "gone"), Holder(shop, "late")
    here: list[Holder] = [gone]

    def vanish(kind: str, content: bytearray) -> bytearray:
        if kind == "block" and gone.given["block"] >= 1:
            here[:] = [late]
            raise gone.fault(Trouble.MISSING)
        return content

    gone.spoil = vanish
    around = Around(here)
    await load(shop, around, away=True)
    assert late.given["block"] == BLOCKS - 1
    assert not around.left_alone.get("gone")


async def test_only_signatures_that_count_here_count(shop: Shop) -> None:
    """A peer's own trust is no argument; another source may have a signature that is."""
    liar = Holder(shop, "liar")
    liar.signed = [b"{}", b"not even json"]
    await load(shop, Around([liar]))  # a replica had the right one
    assert liar.given["block"] == BLOCKS  # its bytes were right
    shop.trust.joinpath("trust.toml").write_text("")
    with pytest.raises(ArtifactRefused, match=r"is refused|nobody here trusts"):
        await load(shop, Around([Holder(shop, "n1")]))
    assert not list((shop.cache.root / "part").glob("*"))


async def test_a_replica_is_still_passed_over_for_a_far_peer(shop: Shop) -> None:
    """One block is bad at all replicas: a far peer has it."""
    file = next(f for f in shop.manifest.files if f.name == "model.safetensors")
    digest = file.blocks[1]
    for number in range(3):
        (shop.store(number) / layout.block(digest)).write_bytes(b"rotten")
    far = Holder(shop, "s1")
    replicas = shop.replicas()
    pull = Pull(shop.cache, replicas, Trust.load(shop.trust), now, Around([], [far]))
    held = await pull.obtain(shop.digest)
    assert shop.same(held.folder)
    assert far.given["block"] >= 1 and far.given["manifest"] == 0
    assert all(replicas.faults[url.rstrip("/"), FaultKind.CORRUPT] == 1 for url in shop.urls)
    held.release()
