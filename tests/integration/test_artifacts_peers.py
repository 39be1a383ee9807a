"""Nodes fetch artifacts from each other over mutual TLS: real nodes, with certificates."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from actors.artifacts import digest, folder, manifest, metrics
from actors.artifacts.peers import ArtifactPeer, PeerFault, Trouble
from actors.contracts import (
    ChatInput,
    Completed,
    HaveArtifacts,
    Message,
    ModelCard,
    Piece,
    ReadBlock,
    ReadManifest,
    ReadSignatures,
    Run,
    Sampling,
)
from actors.core.node_roles import ROLES
from actors.depot.peer_sources import PeerSources
from actors.errors import ArtifactLost
from actors.worker import Worker, WorkerOptions
from supervision.contracts import Contract
from supervision.errors import BadRequest, Overloaded, PeerLost, TetherError
from supervision.runtime import Address, Endpoint
from supervision.security.authority import Authority
from tests.support import messages, tiny_gguf
from tests.support.artifact_shop import MIB, Shop, files, flip
from tests.support.lending_nodes import Lending, lending, refused
from tests.support.waiting import PATIENCE_S, until

REGIONS = {"n1": "north", "n2": "north", "n3": "south"}
WEIGHTS = "model.safetensors"
SLOW = 8 * MIB  # bytes per second that n3 lends
STREAMS = 2  # at once, of n3


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lending]:
    """`n1` lends as by default, `n3` of another region little at a time. Both look anew at what
    they lend each time, and hold it for moments only."""
    with lending(tmp_path_factory.mktemp("lending"), REGIONS) as made:
        asyncio.run(made.grow("n1", made.depot("n1", judge_s=0.0, idle_s=0.5)))
        few: dict[str, Any] = {"streams": STREAMS, "stall_s": 1.0, "peer_bandwidth": SLOW}
        asyncio.run(made.grow("n3", made.depot("n3", judge_s=0.0, idle_s=0.5, **few)))
        yield made


def reads(node: str, trouble: str) -> float:
    """How often this process got that from this node."""
    return metrics.artifact_peer_reads.labels(node, trouble)._value.get()


async def the_only(lenders: PeerSources, shop: Shop) -> tuple[Any, ArtifactPeer]:
    """Who has it, and what asks; that must be closed."""
    asking = lenders.asking()
    [peer] = await asking.near(shop.digest)
    return asking, peer


# ---- what it is for


async def test_a_worker_loads_from_a_peer_when_all_replicas_are_away(
    cluster: Lending, tmp_path: Path
) -> None:
    shop = await cluster.shop(size=1000)
    for file in files(shop.folder):
        file.unlink()
    tiny_gguf.make(tmp_path).rename(shop.folder / "tiny.gguf")
    shop.manifest = folder.scan(shop.folder)
    shop.digest = digest.of(manifest.encode(shop.manifest))
    await shop.push(ref="gguf@1")
    await cluster.give("n1", shop)
    cluster.away(shop)
    card = ModelCard(
        name="tiny", version="1", engine="gguf", context=128,
        source=f"artifact:{digest.address(shop.digest)}",
    )  # fmt: skip
    options = WorkerOptions(
        worker_id="w1",
        node_id="n2",
        cards=(card,),
        cache_dir=str(tmp_path / "n2"),
        artifacts=cluster.artifacts(shop),
        around=cluster.around(),
    )
    await cluster.grow("n2", Worker.spec(options, shutdown=1.0))  # nobody settles for it
    order = Run(
        job=messages.key(model_ref=card.ref),
        fencing_token=1,
        input=ChatInput(messages=(Message(role="user", content="the fox"),)),
        sampling=Sampling(max_tokens=4, seed=1),
        deadline_s=PATIENCE_S,
    )
    worker = await cluster.child_of("n2", "w1")
    async with cluster.nodes.endpoint("n2") as endpoint, asyncio.timeout(PATIENCE_S):
        while True:
            try:
                items = [item async for item in endpoint.stream(worker, order)]
                break
            except Overloaded:  # it is still loading
                await asyncio.sleep(0.05)
    assert isinstance(items[-1], Completed)
    assert shop.same(tmp_path / "n2" / "artifacts" / "whole" / shop.digest / "files")
    await cluster.fell("n2")


async def test_a_near_peer_spares_the_replicas(cluster: Lending) -> None:
    shop = await cluster.shop("n1", size=12 * MIB)
    good = reads("n1", "good")
    replicas = shop.replicas()
    held = await cluster.borrow(shop, replicas=replicas)
    assert shop.same(held.folder)
    assert len(held.entry.signatures()) == 1
    assert reads("n1", "good") - good == 1 + sum(len(f.blocks) for f in shop.manifest.files)


async def test_a_peer_of_another_region_comes_last_and_lends_little_at_once(
    cluster: Lending,
) -> None:
    """It takes as long as its bandwidth says, and those that it turned away come again."""
    shop = await cluster.shop("n3", size=12 * MIB)
    good = reads("n3", "good")
    held = await cluster.borrow(shop)
    assert reads("n3", "good") == good  # the replicas had it
    held.release()
    assert shop.cache.evict(shop.digest)
    cluster.away(shop)
    busy = reads("n3", "busy")
    began = time.monotonic()
    held = await cluster.borrow(shop)
    assert shop.same(held.folder)
    assert time.monotonic() - began > (12 * MIB - MIB) / SLOW
    assert reads("n3", "busy") > busy  # more than it lends at once


# ---- bad bytes


@pytest.mark.parametrize("how", ["flipped", "cut off"])
async def test_bad_bytes_of_a_peer(cluster: Lending, how: str) -> None:
    """Its stamps say that all is as it was verified, and it isn't."""
    shop = await cluster.shop("n1")
    entry = cluster.cache("n1").whole(shop.digest)
    file = entry.files / WEIGHTS
    if how == "flipped":
        flip(file, at=9 * MIB)
    else:
        os.truncate(file, 9 * MIB)
    entry.write_stamps(shop.manifest)
    lenders = cluster.lenders()
    corrupt, missing = reads("n1", "corrupt"), reads("n1", "missing")
    held = await cluster.borrow(shop, lenders)
    assert shop.same(held.folder)
    if how == "flipped":
        assert reads("n1", "corrupt") == corrupt + 1
        assert [n.id for n in lenders.among(near=True)] == []  # not asked again for a while
        told = f"node n1 sent other bytes for block 1 of {WEIGHTS}"
    else:
        assert reads("n1", "missing") == missing + 1  # it says so itself
        told = f"node n1: {WEIGHTS} was cut off here"
    held.release()
    assert shop.cache.evict(shop.digest)
    cluster.away(shop)
    error = await refused(cluster.borrow(shop))
    assert isinstance(error, ArtifactLost) and told in error.message
    assert not files(shop.cache.root / "whole")


async def test_what_was_written_to_is_not_lent(cluster: Lending) -> None:
    """Neither when it is asked for, nor to somebody who has begun to read it."""
    shop = await cluster.shop("n1")
    asking, peer = await the_only(cluster.lenders(), shop)
    async with aclosing(asking):
        await peer.block(WEIGHTS, 0, 8 * MIB)
        flip(cluster.cache("n1").whole(shop.digest).files / WEIGHTS)
        with pytest.raises(PeerFault, match=r"node n1: .*was changed") as fault:
            await peer.block(WEIGHTS, 0, 8 * MIB)
        assert fault.value.trouble is Trouble.MISSING
        assert await asking.near(shop.digest) == []


async def test_what_this_node_would_not_load_is_not_lent(cluster: Lending) -> None:
    shop = await cluster.shop("n1")
    asking, peer = await the_only(cluster.lenders(), shop)
    async with aclosing(asking):
        await peer.block(WEIGHTS, 0, 8 * MIB)
        address = digest.address(shop.digest)
        cluster.say_trust(f'[[revoked]]\nartifact = "{address}"\nreason = "it lies"\n')
        with pytest.raises(PeerFault, match="was revoked: it lies"):
            await peer.block(WEIGHTS, 0, 8 * MIB)
        assert await asking.near(shop.digest) == []
        cluster.say_trust()
        assert len(await asking.near(shop.digest)) == 1
        for path in files(cluster.cache("n1").whole(shop.digest).path / "signatures"):
            path.unlink()
        assert await asking.near(shop.digest) == []


async def test_what_is_lent_is_held_against_eviction(cluster: Lending) -> None:
    shop = await cluster.shop("n1")
    asking, _ = await the_only(cluster.lenders(), shop)
    async with aclosing(asking):
        cache = cluster.cache("n1")
        assert not cache.evict(shop.digest)
        await until(lambda: cache.evict(shop.digest))  # nobody has read it for a while
        assert await asking.near(shop.digest) == []


# ---- losses


async def test_a_depot_that_is_killed_costs_the_blocks_under_way_only(cluster: Lending) -> None:
    shop = await cluster.shop("n1", size=32 * MIB)
    depot = await cluster.child_of("n1")
    killed: list[int] = []

    def told(what: str, fraction: float) -> None:
        if fraction > 0.2 and not killed:
            killed.append(depot.pid)
            os.kill(depot.pid, signal.SIGKILL)

    good, lost = reads("n1", "good"), reads("n1", "unreachable")
    lenders = cluster.lenders()
    held = await cluster.borrow(shop, lenders, told, shop.replicas(parallel=2))
    assert shop.same(held.folder)
    assert reads("n1", "good") > good
    assert 1 <= reads("n1", "unreachable") - lost <= 2  # as many as were under way
    assert lenders.among(near=True) == []
    # It comes back elsewhere; who knows its old address finds the new one.
    await cluster.child_of("n1", but_not=depot.pid)
    known = cluster.lenders()
    known.depots["n1"] = depot
    asking, _ = await the_only(known, shop)
    await asking.aclose()
    assert known.depots["n1"] != depot


async def test_a_fetch_goes_on_where_it_was_broken_off(cluster: Lending) -> None:
    shop = await cluster.shop("n1", size=25 * MIB)
    blocks = sum(len(f.blocks) for f in shop.manifest.files)

    def told(what: str, fraction: float) -> None:
        if fraction > 0.5:
            raise KeyError("broken off")

    good = reads("n1", "good")
    with pytest.raises(KeyError, match="broken off"):
        await cluster.borrow(shop, None, told, shop.replicas(parallel=1))
    before = reads("n1", "good") - good
    cluster.away(shop)
    held = await cluster.borrow(shop)
    assert shop.same(held.folder)
    # the manifest is asked for twice; of the blocks, only the one that was broken off may be
    assert blocks + 2 <= reads("n1", "good") - good <= blocks + 3
    assert before > 2


# ---- strangers and bad questions


async def test_nobody_without_a_certificate_is_lent_anything(
    cluster: Lending, tmp_path: Path
) -> None:
    shop = await cluster.shop("n1")
    depot = await cluster.child_of("n1")
    block = ReadBlock(artifact=shop.digest, file=WEIGHTS, index=0, piece_bytes=MIB)
    async with cluster.nodes.nodes["n2"].endpoint() as stranger:
        with pytest.raises(PeerLost):
            await taken(stranger, depot, block)
    authority = Authority.init(tmp_path / "ca", "blue")  # the same name, another key
    authority.issue("n2", roles=ROLES)
    own = str(authority.folder_of("n2"))
    lenders = PeerSources(
        msgspec.structs.replace(cluster.options(), identity_dir=own), cluster.around()
    )
    asking = lenders.asking()
    async with aclosing(asking):
        assert await asking.near(shop.digest) == []
        endpoint = await asking._opened()
        with pytest.raises(PeerLost):
            await taken(endpoint, depot, block)
    nobody = msgspec.structs.replace(cluster.options(), identity_dir="")
    assert PeerSources.of(nobody, cluster.around()) is None


async def taken(endpoint: Endpoint, depot: Address, order: Contract) -> int:
    """Bytes of all pieces."""
    size = 0
    async with asyncio.timeout(PATIENCE_S):
        async for piece in endpoint.stream(depot, order, credit=2):
            assert isinstance(piece, Piece)
            size += len(piece.content)
    return size


async def test_bad_questions_have_clear_answers(cluster: Lending) -> None:
    shop = await cluster.shop("n1")
    depot = await cluster.child_of("n1")
    absent = "0" * 64

    def block(file: str, index: int = 0, artifact: str = shop.digest) -> ReadBlock:
        return ReadBlock(artifact=artifact, file=file, index=index, piece_bytes=MIB)

    questions: list[tuple[Contract, type[TetherError], str]] = [
        (block(WEIGHTS, artifact=absent), ArtifactLost, "not whole in the cache here"),
        (ReadManifest(artifact=absent, piece_bytes=MIB), ArtifactLost, "not whole"),
        (block(WEIGHTS, 2), BadRequest, "has 2 blocks, none is 2"),
        (block(WEIGHTS, -1), BadRequest, "none is -1"),
        (block("../manifest.json"), BadRequest, "has no file '../manifest.json'"),
        (block("/etc/passwd"), BadRequest, "has no file"),
        (block(f"./{WEIGHTS}"), BadRequest, "has no file"),
        (block(f"{WEIGHTS}\0"), BadRequest, "has no file"),
        (block(WEIGHTS, artifact=f"../whole/{shop.digest}"), BadRequest, "is no digest"),
        (ReadSignatures(artifact="..", piece_bytes=MIB), BadRequest, "is no digest"),
        (ReadManifest(artifact=shop.digest + "\n", piece_bytes=MIB), BadRequest, "is no digest"),
    ]
    async with cluster.nodes.endpoint("n2") as endpoint:
        for question, kind, told in questions:
            error = await refused(taken(endpoint, depot, question))
            assert type(error) is kind and told in error.message, (question, error)
        error = await refused(endpoint.ask(depot, HaveArtifacts(artifacts=(absent,) * 65)))
        assert isinstance(error, BadRequest) and "64 artifacts at most" in error.message
        error = await refused(endpoint.ask(depot, HaveArtifacts(artifacts=("../x",))))
        assert isinstance(error, BadRequest)
        held = await endpoint.ask(depot, HaveArtifacts(artifacts=(absent, shop.digest)))
        assert held.artifacts == (shop.digest,)
        # nothing of it has harmed it, and a name that isn't there leaves nothing behind
        assert await taken(endpoint, depot, block(WEIGHTS)) == 8 * MIB
        small = ReadBlock(artifact=shop.digest, file=WEIGHTS, index=1, piece_bytes=-5)
        assert (
            await taken(endpoint, depot, small) == (shop.folder / WEIGHTS).stat().st_size - 8 * MIB
        )
    assert not (cluster.cache("n1").root / "locks" / f"use-{absent}").exists()
    assert await cluster.child_of("n1") == depot


async def test_a_thousand_requests_at_once(cluster: Lending) -> None:
    shop = await cluster.shop("n1")
    depot = await cluster.child_of("n1")
    process = psutil.Process(depot.pid)
    block = ReadBlock(artifact=shop.digest, file=WEIGHTS, index=0, piece_bytes=MIB)
    most = 0
    results: Counter[str] = Counter()
    told: set[str] = set()
    async with cluster.nodes.endpoint("n2") as endpoint:
        assert await taken(endpoint, depot, block) == 8 * MIB
        before = process.memory_info().rss

        async def ask() -> None:
            nonlocal most
            try:
                assert await taken(endpoint, depot, block) == 8 * MIB
                results["lent"] += 1
            except Overloaded as error:
                results["refused"] += 1
                told.add(re.sub(r"\d+", "N", error.message.rpartition(" N ")[2]))
            most = max(most, process.memory_info().rss)

        await asyncio.gather(*(ask() for _ in range(1000)))
        assert results.total() == 1000
        assert results["lent"] >= 1 and results["refused"] >= 200
        assert any("on their way" in why for why in told), told
        assert most - before < 128 * MIB  # a block for each would be 8 GB
        assert await taken(endpoint, depot, block) == 8 * MIB
    assert await cluster.child_of("n1") == depot


async def test_who_takes_nothing_is_ended(cluster: Lending) -> None:
    """Two streams that nobody reads are all that `n3` has; it takes them back."""
    shop = await cluster.shop("n3")
    depot = await cluster.child_of("n3")
    block = ReadBlock(artifact=shop.digest, file=WEIGHTS, index=0, piece_bytes=MIB)
    async with cluster.nodes.endpoint("n2") as endpoint:
        stalled = [endpoint.stream(depot, block, credit=1) for _ in range(STREAMS)]
        for stream in stalled:
            await anext(stream)
        error = await refused(taken(endpoint, depot, block))
        assert isinstance(error, Overloaded) and error.retry_after_s
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    assert await taken(endpoint, depot, block) == 8 * MIB
                    break
                except Overloaded:
                    await asyncio.sleep(0.05)
        for stream in stalled:
            stream.close()
