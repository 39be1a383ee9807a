"""The cache on disk: sound whatever happens to it, and within its budget."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actors.artifacts import digest, entry, folder, manifest, pull
from actors.artifacts.cache import Cache
from actors.artifacts.locks import FileLock
from actors.artifacts.manifest import Manifest
from actors.errors import ArtifactRefused, CacheFull
from supervision.errors import Unavailable
from tests.support.artifact_shop import Shop, files, flip, make_model
from tests.support.properties import examples

STEPS = ("bring", "part", "pin", "unpin", "use", "evict", "spoil")


class Model:
    """A model that is put into caches without any replica."""

    def __init__(self, path: Path, size: int, seed: int) -> None:
        self.folder = make_model(path, size=size, seed=seed)
        self.manifest: Manifest = folder.scan(self.folder)
        self.content = manifest.encode(self.manifest)
        self.digest = digest.of(self.content)

    def bring(self, cache: Cache, *, finish: bool = True) -> None:
        lock = cache.fetching(self.digest)
        assert lock.try_exclusive()
        with lock:
            part = cache.begin(self.digest, self.manifest, self.content)
            for file in self.manifest.files:
                target = part.files / file.name
                target.parent.mkdir(exist_ok=True)
                target.write_bytes((self.folder / file.name).read_bytes())
            if finish:
                cache.finish(self.digest, self.manifest)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Model]:
    path = tmp_path_factory.mktemp("models")
    return [Model(path / str(number), 1000, number) for number in range(4)]


def used(cache: Cache, model: Model, at: float) -> None:
    os.utime(cache.whole(model.digest).path / "used", (at, at))


def here(cache: Cache, models: list[Model]) -> list[int]:
    return [n for n, model in enumerate(models) if cache.look(model.digest) is not None]


def test_the_least_recently_used_goes_first(tmp_path: Path, models: list[Model]) -> None:
    size = models[0].manifest.size
    cache = Cache(tmp_path, size * 2 + size // 2)
    models[0].bring(cache)
    models[1].bring(cache)
    used(cache, models[0], time.time())
    used(cache, models[1], time.time() - 100)
    models[2].bring(cache)
    assert here(cache, models) == [0, 2]


def test_what_is_pinned_or_in_use_stays(tmp_path: Path, models: list[Model]) -> None:
    size = models[0].manifest.size
    cache = Cache(tmp_path, size * 2 + size // 2)
    models[0].bring(cache)
    models[1].bring(cache)
    cache.pin(models[0].digest)
    using = cache.using(models[1].digest)
    with pytest.raises(CacheFull, match="in use or pinned"):
        models[2].bring(cache)
    assert here(cache, models) == [0, 1]
    using.release()
    models[2].bring(cache)
    assert here(cache, models) == [0, 2]
    cache.unpin(models[0].digest)
    assert cache.evict(models[0].digest)
    assert not cache.evict(models[0].digest)


def test_what_is_larger_than_the_budget_is_refused(tmp_path: Path, models: list[Model]) -> None:
    cache = Cache(tmp_path, models[0].manifest.size - 1)
    with pytest.raises(CacheFull, match="cache_bytes"):
        models[0].bring(cache)
    assert not files(tmp_path / "part")


def test_a_part_that_nobody_fetches_makes_room(tmp_path: Path, models: list[Model]) -> None:
    size = models[0].manifest.size
    cache = Cache(tmp_path, size + size // 2)
    models[0].bring(cache, finish=False)
    models[1].bring(cache)
    assert here(cache, models) == [1]
    assert not (tmp_path / "part" / models[0].digest).exists()
    with cache.fetching(models[0].digest) as lock:
        assert lock.try_exclusive()
        cache.evict(models[1].digest)
        cache.begin(models[0].digest, models[0].manifest, models[0].content)
        with pytest.raises(CacheFull):
            models[1].bring(cache)


def test_what_a_killed_process_left_is_swept(tmp_path: Path, models: list[Model]) -> None:
    cache = Cache(tmp_path, 1 << 30)
    (tmp_path / "trash" / "x").mkdir(parents=True)
    (tmp_path / "trash" / "x" / "file").write_text("half")
    (tmp_path / "part" / models[0].digest).mkdir(parents=True)  # killed before its size was known
    models[0].bring(cache)
    assert not files(tmp_path / "trash")
    assert here(cache, models) == [0]


def test_every_change_to_a_file_is_seen(tmp_path: Path, models: list[Model]) -> None:
    """Also one that keeps size and time, a file more, a file less, a link in its place."""
    model = models[0]

    def spoil_quietly(path: Path) -> None:
        before = path.stat()
        flip(path)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    def link(path: Path) -> None:
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")

    spoils: list[Callable[[Path], Any]] = [
        flip,
        spoil_quietly,
        Path.unlink,
        link,
        lambda path: os.truncate(path, path.stat().st_size - 1),
        lambda path: path.write_bytes(path.read_bytes() + b"x"),
        lambda path: (path.parent / "more.json").write_text("{}"),
        lambda path: flip(path.parents[1] / "manifest.json"),
        lambda path: (path.parents[1] / "manifest.json").unlink(),
    ]
    for number, spoil in enumerate(spoils):
        cache = Cache(tmp_path / str(number), 1 << 30)
        model.bring(cache)
        assert cache.look(model.digest) is not None
        spoil(cache.whole(model.digest).files / "model.safetensors")
        assert cache.look(model.digest) is None, number
        model.bring(cache)  # in its place
        assert cache.look(model.digest) is not None


def test_a_touch_costs_a_look_and_no_more(tmp_path: Path, models: list[Model]) -> None:
    cache = Cache(tmp_path, 1 << 30)
    model = models[0]
    model.bring(cache)
    whole = cache.whole(model.digest)
    assert whole.check(model.manifest) == 0
    (whole.files / "config.json").touch()
    assert whole.check(model.manifest) == 1
    assert whole.check(model.manifest) == 0
    (whole.path / "stamps.json").write_text("{")
    assert whole.check(model.manifest) == len(model.manifest.files)
    assert whole.check(model.manifest) == 0
    assert whole.check(model.manifest, deep=True) == len(model.manifest.files)


@given(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 3)), max_size=14))
@settings(
    max_examples=examples(25),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_whatever_is_done_it_is_sound_and_within_its_budget(
    tmp_path_factory: pytest.TempPathFactory, models: list[Model], steps: list[tuple[str, int]]
) -> None:
    size = models[0].manifest.size
    cache = Cache(tmp_path_factory.mktemp("cache"), size * 2 + size // 2)
    pinned: set[int] = set()
    locks: dict[int, FileLock] = {}
    sound: set[int] = set()
    for step, number in steps:
        model = models[number]
        match step:
            case "bring" | "part":
                if cache.look(model.digest) is None:
                    try:
                        model.bring(cache, finish=step == "bring")
                    except CacheFull:
                        there = {each.digest for each in cache.entries()}
                        assert sum(models[n].digest in there for n in {*pinned, *locks}) >= 2
            case "pin":
                cache.pin(model.digest)
                pinned.add(number)
            case "unpin":
                cache.unpin(model.digest)
                pinned.discard(number)
            case "use" if number not in locks:
                locks[number] = cache.using(model.digest)
            case "evict":
                gone = cache.evict(model.digest)
                assert not (gone and (number in pinned or number in locks))
            case "spoil" if number in sound:
                flip(cache.whole(model.digest).files / "model.safetensors")
        before, sound = sound, set(here(cache, models))
        kept = {n for n in before if n in pinned or n in locks}
        assert kept <= sound | ({number} if step == "spoil" else set())
        assert sum(e.size for e in cache.entries()) <= cache.budget
        for one in sound:
            cache.whole(models[one].digest).check(models[one].manifest, deep=True)
    for lock in locks.values():
        lock.release()


def test_a_lock_file_may_be_removed_by_who_holds_it(tmp_path: Path) -> None:
    first, second, third = (FileLock(tmp_path / "lock") for _ in range(3))
    assert first.try_exclusive()
    assert not second.try_shared()
    first.remove()
    assert second.try_exclusive()  # a new file
    first.release()
    assert not third.try_exclusive()
    second.release()
    second.release()
    assert third.try_shared()
    assert first.try_shared()
    assert not second.try_exclusive()
    first.release()
    third.release()


@pytest.fixture
async def shop(tmp_path: Path) -> Shop:
    shop = Shop(tmp_path)
    await shop.push()
    return shop


@pytest.mark.parametrize("where", ["block", "sync", "signature", "begin"])
async def test_a_full_disk_is_said_and_costs_nothing_else(
    shop: Shop, models: list[Model], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    models[0].bring(shop.cache)

    def full(*_arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        match where:
            case "block":
                patch.setattr(pull.os, "pwrite", full)
            case "sync":
                patch.setattr(entry, "sync_one", full)
            case "signature":
                patch.setattr(entry.CacheEntry, "add_signature", full)
            case "begin":
                patch.setattr(entry.disk, "write", full)
        with pytest.raises(CacheFull, match=r"the disk of .*cache is full"):
            await shop.pull().obtain(shop.digest)
    assert here(shop.cache, models) == [0]
    assert not (shop.cache.root / "part" / shop.digest).exists()
    assert not (shop.cache.root / "whole" / shop.digest).exists()
    held = await shop.pull().obtain(shop.digest)
    assert shop.same(held.folder)
    held.release()


async def test_too_little_disk_is_said_before_anything_is_fetched(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 20 << 20})
    monkeypatch.setattr("actors.artifacts.cache.shutil.disk_usage", lambda _path: usage)
    replicas = shop.replicas()
    with pytest.raises(CacheFull, match="the disk has 20971520 free"):
        await shop.pull(replicas).obtain(shop.digest)
    assert not files(shop.cache.root / "part")


async def test_one_fetches_while_others_wait(shop: Shop) -> None:
    """Four at once, each as a process of its own would: the blocks are fetched once."""
    sources = [shop.replicas() for _ in range(4)]
    fetched = 0
    for source in sources:
        fetch = source.fetch

        async def counted(path: str, fetch: Any = fetch, **options: Any) -> Any:
            nonlocal fetched
            fetched += path.startswith("blocks/")
            return await fetch(path, **options)

        source.fetch = counted  # type: ignore[method-assign]
    found = await asyncio.gather(*(shop.pull(source).obtain(shop.digest) for source in sources))
    assert all(shop.same(held.folder) for held in found)
    assert fetched == sum(len(file.blocks) for file in shop.manifest.files)
    assert not shop.cache.evict(shop.digest)
    for held in found:
        held.release()
    assert shop.cache.evict(shop.digest)


async def test_what_was_fetched_before_a_kill_is_not_fetched_again(shop: Shop) -> None:
    weights = next(f for f in shop.manifest.files if f.name == "model.safetensors")
    part = shop.cache.begin(shop.digest, shop.manifest, manifest.encode(shop.manifest))
    content = (shop.folder / weights.name).read_bytes()
    (part.files / weights.name).write_bytes(content[: manifest.BLOCK + 1000])
    source = shop.replicas()
    asked: list[str] = []
    fetch = source.fetch

    async def counted(path: str, **options: Any) -> Any:
        asked.append(path)
        return await fetch(path, **options)

    source.fetch = counted  # type: ignore[method-assign]
    held = await shop.pull(source).obtain(shop.digest)
    assert shop.same(held.folder)
    assert f"blocks/{weights.blocks[0][:2]}/{weights.blocks[0]}" not in asked
    assert f"blocks/{weights.blocks[1][:2]}/{weights.blocks[1]}" in asked


async def test_a_cancelled_pull_writes_nothing_afterwards(shop: Shop) -> None:
    """Its descriptors are closed, and may be other files' by then."""
    begun = asyncio.Event()
    task = asyncio.create_task(shop.pull().obtain(shop.digest, lambda what, fraction: begun.set()))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert shop.cache.look(shop.digest) is None
    held = await shop.pull().obtain(shop.digest)
    assert shop.same(held.folder)


async def test_without_replicas_only_what_is_there_is_given(shop: Shop) -> None:
    alone = pull.Pull(shop.cache, None, None, lambda: pytest.fail("no clock is needed"))
    with pytest.raises(Unavailable, match="not in the cache"):
        await alone.obtain(shop.digest)
    (await shop.pull().obtain(shop.digest)).release()
    held = await alone.obtain(shop.digest)
    assert shop.same(held.folder)


async def test_files_that_contradict_their_blocks_are_refused(tmp_path: Path) -> None:
    """A publisher's manifest whose blocks are right, and whose file is said to be another."""
    shop = Shop(tmp_path, size=1000)
    lie = shop.manifest.files[0]
    changed = entry.File(lie.name, lie.size, lie.media_type, digest.of(b"other"), lie.blocks)
    shop.manifest = manifest.make([changed, *shop.manifest.files[1:]])
    shop.digest = digest.of(manifest.encode(shop.manifest))
    await shop.push(b"{}")
    with pytest.raises(ArtifactRefused, match=r"1_Pooling/config\.json was changed"):
        await shop.pull(trusting=True).obtain(shop.digest)
    assert not files(shop.cache.root / "part") and not files(shop.cache.root / "whole")
