"""Models at three replicas, one of them a real S3 server that checks signatures of requests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import obstore
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from actors.artifacts import layout, names
from actors.artifacts.collect import collect
from actors.artifacts.push import Push
from actors.artifacts.repair import repair
from actors.artifacts.replica import FaultKind, Replica, ReplicaFault
from actors.artifacts.replicas import Replicas
from actors.errors import ArtifactLost, ArtifactRefused, ModelNotFound
from supervision.errors import BadRequest, Conflict
from tests.support.artifact_shop import (
    NOW,
    S3Server,
    Shop,
    Signer,
    files,
    flip,
    s3_server,
    write_trust,
)
from tests.support.properties import examples

DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TETHER_TEST_S3_ACCESS_KEY_ID", S3Server.access)
    monkeypatch.setenv("TETHER_TEST_S3_SECRET_ACCESS_KEY", S3Server.secret)


@pytest.fixture
async def shop(tmp_path: Path) -> Shop:
    shop = Shop(tmp_path)
    await shop.push()
    return shop


async def refusal(shop: Shop, kind: type[Exception] = ArtifactRefused) -> str:
    """What is said instead of the model; nothing of it is in the cache then."""
    with pytest.raises(kind) as refused:
        await shop.pull().obtain(shop.digest)
    assert not files(shop.cache.root / "whole")
    return str(refused.value)


async def test_s3_and_two_folders(
    s3: S3Server, credentials: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Push, push again, pull from S3 alone, lose a block there, repair it."""
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    shop = Shop(tmp_path, urls=[s3.url("models"), *(folder.as_uri() for folder in folders)])
    pushed = await shop.push()
    assert len(pushed.acknowledged) == 3
    assert pushed.sent == 3 * len(shop.manifest.blocks())
    again = await shop.push()
    assert (again.sent, again.there) == (0, 3 * len(shop.manifest.blocks()))

    only = Replica(shop.urls[0])
    held = await shop.pull(Replicas([only])).obtain(shop.digest)
    assert shop.same(held.folder)
    held.release()
    assert shop.cache.evict(shop.digest)

    lost, changed = list(shop.manifest.blocks())[-2:]
    await only.delete(layout.block(lost))
    size = shop.manifest.blocks()[changed]
    await only.put(layout.block(changed), bytes(size), overwrite=True)
    replicas = shop.replicas()
    held = await shop.pull(replicas).obtain(shop.digest)
    assert shop.same(held.folder)
    assert replicas.faults[only.name, FaultKind.MISSING] == 1
    assert replicas.faults[only.name, FaultKind.CORRUPT] == 1
    mended = await repair(shop.replicas())
    assert (mended.repaired, mended.lost, mended.away) == (2, [], [])
    assert (await repair(shop.replicas())).repaired == 0
    assert not await only.put(layout.manifest(shop.digest), b"other")  # written once

    # signatures of requests are enforced, and the error says so
    monkeypatch.setenv("TETHER_TEST_S3_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(ReplicaFault, match="SignatureDoesNotMatch") as refused:
        await Replica(shop.urls[0]).get(layout.manifest(shop.digest), most=1 << 20)
    assert refused.value.fault is FaultKind.UNREACHABLE
    assert "wrong" not in refused.value.message

    listed = Replica(shop.urls[0].replace("TETHER_TEST_S3", "TETHER_NOWHERE"))
    with pytest.raises(ReplicaFault, match="TETHER_NOWHERE_ACCESS_KEY_ID"):
        await listed.size("x")


async def test_s3_collects(s3: S3Server, credentials: None, tmp_path: Path) -> None:
    shop = Shop(tmp_path, urls=[s3.url("collected")], size=1000)
    await shop.push(min_replicas=1, quorum=1)
    await names.forget(shop.replicas(), "tiny@1")
    assert (await collect(shop.replicas(), now=NOW)).condemned == 7
    assert (await collect(shop.replicas(), now=NOW + DAY)).removed == 7
    assert [kept.path async for kept in Replica(shop.urls[0]).listed("blocks/")] == []


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    "spoil", [flip, _truncate, Path.unlink], ids=["flip", "truncate", "remove"]
)
@pytest.mark.parametrize("what", ["blocks", "manifests", "signatures"])
async def test_a_bad_replica_is_passed_over_and_repaired(
    shop: Shop, what: str, spoil: Callable[[Path], None]
) -> None:
    """All of one kind is bad at one replica, and one each at another."""
    for path in files(shop.store(0) / what):
        spoil(path)
    spoil(files(shop.store(1) / "blocks")[-1])
    replicas = shop.replicas()
    held = await shop.pull(replicas).obtain(shop.digest)
    assert shop.same(held.folder)
    mended = await repair(shop.replicas())
    assert mended.repaired >= 2 and not mended.lost
    assert (await repair(shop.replicas())).repaired == 0
    for path in files(shop.store(2)):
        assert (shop.store(0) / path.relative_to(shop.store(2))).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("what", "told"),
    [("blocks", "its digest is another"), ("manifests", "changed"), ("signatures", "changed")],
)
async def test_what_is_bad_everywhere_is_refused_by_its_cause(
    shop: Shop, what: str, told: str
) -> None:
    for number in range(3):
        flip(files(shop.store(number) / what)[0], at=20)
    message = await refusal(shop, ArtifactLost)
    assert told in message and what in message
    assert all(f"replica-{number}" in message for number in range(3))
    assert files(shop.store(0) / what)[0].name in message
    assert len((await repair(shop.replicas())).lost) == (1 if what != "manifests" else 2)


async def test_a_replica_that_lost_everything_is_not_left_alone(shop: Shop) -> None:
    """However much of it is bad: it answers, so its breaker has no reason to open."""
    for path in files(shop.store(0) / "blocks"):
        flip(path)
    replicas = shop.replicas(parallel=1)
    for _ in range(3):
        for block, size in shop.manifest.blocks().items():
            await replicas.fetch(layout.block(block), most=size, digest=block, size=size)
    assert set(replicas.faults) == {(shop.urls[0], FaultKind.CORRUPT)}
    mended = await repair(shop.replicas(parallel=1))
    assert (mended.repaired, mended.away) == (len(shop.manifest.blocks()), [])


async def test_replicas_that_are_away(shop: Shop) -> None:
    shop.store(0).rename(shop.path / "away")
    held = await shop.pull().obtain(shop.digest)
    assert shop.same(held.folder)
    assert (await repair(shop.replicas())).away == [shop.urls[0]]
    held.release()
    shop.cache.evict(shop.digest)
    shop.store(1).rename(shop.path / "away1")
    shop.store(2).rename(shop.path / "away2")
    assert "does not exist" in await refusal(shop, ArtifactLost)
    with pytest.raises(ArtifactLost, match="does not exist"):
        await repair(shop.replicas())
    (shop.path / "away2").rename(shop.store(2))
    shop.store(0).mkdir()
    shop.store(1).mkdir()
    mended = await repair(shop.replicas())
    assert mended.repaired == 2 * len([p for p in files(shop.store(2)) if p.parent.name != "gc"])
    assert not mended.lost


async def test_a_push_needs_its_quorum(tmp_path: Path) -> None:
    shop = Shop(tmp_path, size=1000)
    with pytest.raises(BadRequest, match="min_replicas"):
        await shop.push(min_replicas=4)
    shop.store(0).rmdir()
    pushed = await shop.push()
    assert len(pushed.acknowledged) == 2
    assert list(pushed.left_out) == [shop.urls[0]]
    shop.store(1).rename(tmp_path / "away")
    with pytest.raises(ArtifactLost, match="1 of 3 replicas have it, and 2 must"):
        await shop.push(ref="tiny@2")
    assert not files(shop.store(2) / "refs" / "tiny@2")


async def test_a_push_that_broke_off_is_taken_up(tmp_path: Path) -> None:
    shop = Shop(tmp_path, size=20 << 20)
    done = asyncio.Event()

    async def begin() -> None:
        push = Push(shop.replicas(parallel=1))
        await push.push(
            shop.folder, shop.manifest, ref="tiny@1", told=lambda size: done.set() if size > 9999
            else None,
        )  # fmt: skip

    task = asyncio.create_task(begin())
    await done.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert not files(shop.store(0) / "refs") and not files(shop.store(0) / "manifests")
    with pytest.raises(ArtifactLost, match=r"manifests/.* is missing"):
        await shop.pull(trusting=True).obtain(shop.digest)
    pushed = await shop.push()
    assert pushed.there >= 3
    assert pushed.sent + pushed.there == 3 * len(shop.manifest.blocks())
    assert shop.same((await shop.pull().obtain(shop.digest)).folder)


async def test_a_version_is_never_changed(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Shop(tmp_path / "other", urls=shop.urls, size=999)
    with pytest.raises(Conflict, match=f"tiny@1 is sha256:{shop.digest}"):
        await other.push()
    assert not [path for path in files(shop.store(0)) if other.digest in path.name]
    assert await names.resolve(shop.replicas(), "tiny@1") == shop.digest
    with pytest.raises(ModelNotFound):
        await names.resolve(shop.replicas(), "tiny@2")


async def test_a_folder_that_changes_meanwhile_is_refused(tmp_path: Path) -> None:
    shop = Shop(tmp_path, size=1000)
    bundle = shop.bundle()
    flip(shop.folder / "model.safetensors")
    with pytest.raises(ArtifactRefused, match=r"model\.safetensors has changed"):
        await shop.push(bundle)


async def test_a_revoked_key_stops_what_is_in_the_cache_too(shop: Shop, tmp_path: Path) -> None:
    """Revocation counts from the next load; a signature by a new key lets it in again."""
    (await shop.pull().obtain(shop.digest)).release()
    new = Signer(tmp_path, "new")
    write_trust(shop.trust, shop.signer, revoked='"laptop stolen"')
    with pytest.raises(ArtifactRefused, match="release, which was revoked: laptop stolen"):
        await shop.pull().obtain(shop.digest)
    await Push(shop.replicas()).sign(shop.digest, shop.bundle(new))
    with pytest.raises(ArtifactRefused, match="revoked"):
        await shop.pull().obtain(shop.digest)
    write_trust(shop.trust, new)
    replicas = shop.replicas()
    assert shop.same((await shop.pull(replicas).obtain(shop.digest)).folder)
    for number in range(3):  # it is kept with the model: the next time nobody is asked
        shop.store(number).rename(shop.path / f"away{number}")
    assert shop.same((await shop.pull().obtain(shop.digest)).folder)


async def test_who_is_not_trusted_is_not_even_fetched(tmp_path: Path) -> None:
    shop = Shop(tmp_path, size=1000)
    push = Push(shop.replicas())
    await push.push(shop.folder, shop.manifest, ref="tiny@1")
    assert "is not signed" in await refusal(shop)
    stranger = Signer(tmp_path, "stranger")
    await Push(shop.replicas()).sign(shop.digest, shop.bundle(stranger))
    assert "nobody here trusts" in await refusal(shop)
    assert not (shop.cache.root / "part").exists()
    held = await shop.pull(trusting=True).obtain(shop.digest)
    assert shop.same(held.folder)
    held.release()
    with pytest.raises(ArtifactRefused, match="nobody here trusts"):
        await shop.pull().obtain(shop.digest)  # it came while trust was off
    await Push(shop.replicas()).sign(shop.digest, shop.bundle())
    assert shop.same((await shop.pull().obtain(shop.digest)).folder)


async def test_names_that_replicas_disagree_on(shop: Shop, tmp_path: Path) -> None:
    """Most of those that can be read decide; repair brings the others in line."""
    wrong = shop.store(0) / "refs" / "tiny@1"
    wrong.write_text("sha256:" + "0" * 64)
    assert await names.resolve(shop.replicas(), "tiny@1") == shop.digest
    flip(shop.store(1) / "refs" / "tiny@1", at=0)
    with pytest.raises(ArtifactLost, match="names of a replica could not be read"):
        await collect(shop.replicas(), now=NOW)
    mended = await repair(shop.replicas())
    assert mended.repaired == 2
    assert mended.lost == [layout.manifest("0" * 64)]
    assert wrong.read_text() == (shop.store(2) / "refs" / "tiny@1").read_text()


async def test_a_collection_removes_what_nothing_refers_to(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    second = Shop(tmp_path / "second", urls=shop.urls, size=1000)
    await second.push(ref="tiny@2")
    await names.forget(shop.replicas(), "tiny@1")
    everything = files(shop.store(0))
    # a model that a configuration names stays, without a name
    kept = await collect(shop.replicas(), now=NOW, keep=[shop.digest])
    assert (kept.condemned, kept.removed) == (0, 0)
    first = await collect(shop.replicas(), now=NOW)
    assert first.removed == 0 and first.condemned > 0
    assert set(everything) <= set(files(shop.store(0)))
    assert (await collect(shop.replicas(), now=NOW + DAY / 2)).removed == 0
    last = await collect(shop.replicas(), now=NOW + DAY)
    assert last.removed == first.condemned and last.condemned == 0
    second.cache = shop.cache
    write_trust(second.trust, second.signer)
    assert second.same((await second.pull().obtain(second.digest)).folder)
    assert (await repair(shop.replicas())).repaired == 0
    with pytest.raises(ArtifactLost, match="is missing"):
        await shop.pull(trusting=True).obtain(shop.digest)


async def test_a_push_saves_what_a_collection_has_condemned(shop: Shop) -> None:
    """Blocks that are there, and condemned, are sent again, and no later collection takes them,
    whether it sees the new name or began before it."""
    await names.forget(shop.replicas(), "tiny@1")
    await collect(shop.replicas(), now=NOW)
    push = Push(shop.replicas())
    bundle = files(shop.store(0) / "signatures")[0].read_bytes()
    modified = {path: path.stat().st_mtime_ns for path in files(shop.store(0) / "blocks")}
    pushed = await push.push(shop.folder, shop.manifest, ref="tiny@3", signatures=[bundle])
    assert pushed.sent == 3 * len(shop.manifest.blocks())
    assert all(path.stat().st_mtime_ns > before for path, before in modified.items())
    await names.forget(shop.replicas(), "tiny@3")  # as if its name had not been seen
    late = await collect(shop.replicas(), now=NOW + DAY)
    assert late.removed == 0  # it is condemned anew, for another day
    assert late.condemned > 0


async def test_a_collection_needs_all_that_is_referred_to(shop: Shop) -> None:
    for number in range(3):
        flip(files(shop.store(number) / "manifests")[0])
    with pytest.raises(ArtifactLost, match="changed"):
        await collect(shop.replicas(), now=NOW)
    shop.store(1).rename(shop.path / "away")
    with pytest.raises(ArtifactLost, match="only when all replicas answer"):
        await collect(shop.replicas(), now=NOW)
    assert not (shop.store(0) / "gc").exists()


async def test_a_replica_that_never_answers_is_passed_over(shop: Shop, credentials: None) -> None:
    """It takes connections, and says nothing; after some blocks its breaker keeps it out."""
    asked = 0

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    url = f"s3://models?endpoint=http://127.0.0.1:{port}&credentials=TETHER_TEST_S3"
    replicas = Replicas(
        [Replica(url, timeout_s=0.2), *(Replica(url) for url in shop.urls)], parallel=2
    )
    try:
        held = await shop.pull(replicas).obtain(shop.digest)
        assert shop.same(held.folder)
        assert asked > 0
        assert replicas.faults[f"s3://models at 127.0.0.1:{port}", FaultKind.UNREACHABLE] > 0
    finally:
        server.close()


@given(
    st.lists(st.tuples(st.sampled_from(("push", "forget", "collect", "both")), st.integers(0, 2)),
             min_size=3, max_size=9)
)  # fmt: skip
@example([("push", 0), ("forget", 0), ("collect", 0), ("both", 0)])
@example([("push", 0), ("forget", 0), ("collect", 0), ("both", 1), ("both", 2)])
@settings(max_examples=examples(8))
def test_no_collection_takes_what_a_name_refers_to(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    """Pushes, names taken away, and collections, also in the middle of a push. The models share
    blocks, and each collection is as late as it may be for what the last one has condemned."""
    path = tmp_path_factory.mktemp("shops")
    shops: list[Shop] = []
    for number in range(3):
        (path / str(number)).mkdir()
        urls = shops[0].urls if shops else None
        shops.append(Shop(path / str(number), urls=urls, size=100 + number))
    named: set[int] = set()
    moment = NOW

    async def run() -> None:
        nonlocal moment
        for step, number in steps:
            shop = shops[number]
            if step == "forget":
                await names.forget(shop.replicas(), f"tiny@{number}")
                named.discard(number)
            elif step == "push":
                await shop.push(b"{}", ref=f"tiny@{number}", quorum=3)
                named.add(number)
            else:
                moment += DAY
                work = [collect(shop.replicas(), now=moment)]
                if step == "both":
                    work.append(shop.push(b"{}", ref=f"tiny@{number}", quorum=3))  # type: ignore[arg-type]
                    named.add(number)
                await asyncio.gather(*work)
            for one in named:
                for url in shops[one].urls:
                    alone = Replicas([Replica(url)])
                    manifest = await alone.manifest(shops[one].digest)
                    for block, size in manifest.blocks().items():
                        await alone.fetch(layout.block(block), most=size, digest=block, size=size)

    asyncio.run(run())


async def test_bandwidth_is_kept(shop: Shop) -> None:
    """18 MB at 12 MB/s: the sleeps that are asked for add up, whatever the machine does."""
    replicas = shop.replicas(bandwidth=12 << 20)
    loop = asyncio.get_running_loop()
    began = loop.time()
    await shop.pull(replicas).obtain(shop.digest)
    assert loop.time() - began > 0.5  # the second block waits for the first one's 8 MiB


def test_obstore_is_what_it_is_said_to_be() -> None:
    assert obstore.__version__ == "0.12.1"
