"""`scripts/prove artifacts [KILLS] [SEED]`: what takes too long for every change.

Three S3 servers that check signatures of requests, with a model of 160 MB: one dies in the middle
of a pull and of a push, one loses all it has, blocks are changed and cut off there; a disk that is
really full (a small tmpfs, as root); KILLS loaders killed at random; a fifth as many fetches from
other nodes whose depots are killed, or whose disks are bad; the whole way to an engine that
answers. Exits 1 at the first thing that is not as it should be.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from actors.artifacts import digest, folder, layout, manifest
from actors.artifacts.cache import Cache
from actors.artifacts.options import ArtifactOptions
from actors.artifacts.repair import repair
from actors.artifacts.replica import FaultKind, Replica
from actors.contracts import ModelCard
from actors.errors import CacheFull
from actors.worker import loader
from supervision.telemetry import logs
from tests.integration.test_artifacts_kills import Loaders
from tests.support import tiny
from tests.support.artifact_shop import MIB, S3Server, Shop, files, flip, s3_server
from tests.support.termination import clean_up_on_sigterm

BIG = 160 * MIB


def say(sentence: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {sentence}", flush=True)


def once(stop: Callable[[], None], after: float) -> Callable[[str, float], None]:
    """A progress that calls `stop` once, when the fraction `after` is reached."""
    pending = [stop]

    def told(_what: str, fraction: float) -> None:
        if fraction >= after and pending:
            pending.pop()()

    return told


async def stores(path: Path) -> None:
    """Three S3 servers: lose one, damage one, kill one while it is read and while it is written."""
    with ExitStack() as stack:
        servers = [stack.enter_context(s3_server()) for _ in range(3)]
        shop = Shop(path, urls=[server.url("models") for server in servers], size=BIG)
        began = time.monotonic()
        pushed = await shop.push()
        assert len(pushed.acknowledged) == 3, pushed
        say(f"pushed {BIG / 1e6:.0f} MB to three S3 servers in {time.monotonic() - began:.1f} s")

        blocks = shop.manifest.blocks()
        draw = random.Random(7)
        first = Replica(shop.urls[0])
        for number, block in enumerate(draw.sample(sorted(blocks), 6)):
            content = bytearray(await first.get(layout.block(block), most=blocks[block]))
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
            cut = content[: len(content) // 2] if number % 2 else content
            await first.put(layout.block(block), bytes(cut), overwrite=True)
        second = Replica(shop.urls[1])
        await second.delete(layout.manifest(shop.digest))
        replicas = shop.replicas()
        held = await shop.pull(replicas).obtain(shop.digest)
        assert shop.same(held.folder)
        assert replicas.faults[first.name, FaultKind.CORRUPT] == 6, replicas.faults
        say(f"pulled past 6 damaged blocks: {dict(replicas.faults)}")
        mended = await repair(shop.replicas())
        assert (mended.repaired, mended.lost, mended.away) == (7, [], []), mended
        say(f"repaired: {mended}")

        held.release()
        shop.cache.evict(shop.digest)
        replicas = shop.replicas(parallel=2)
        began = time.monotonic()
        stop = once(servers[0].close, 0.3)
        held = await shop.pull(replicas).obtain(shop.digest, stop)
        assert shop.same(held.folder)
        assert replicas.faults[first.name, FaultKind.UNREACHABLE] > 0, replicas.faults
        say(f"its first server was killed: pulled in {time.monotonic() - began:.1f} s all the same")
        again = await shop.push(ref="tiny@2")
        assert len(again.acknowledged) == 2 and list(again.left_out) == [first.name], again
        say(f"pushed to the two that are left; left out: {again.left_out}")

        fresh = stack.enter_context(s3_server())
        shop.urls[0] = fresh.url("models")
        mended = await repair(shop.replicas())
        own = 5  # a manifest, two signatures, two names
        assert mended.repaired == len(blocks) + own and not mended.away, mended
        held.release()
        shop.cache.evict(shop.digest)
        shop.urls = shop.urls[:1]
        assert shop.same((await shop.pull().obtain(shop.digest)).folder)
        say(f"an empty server in its place was filled: {mended}")


def full_disk(path: Path) -> None:
    """A tmpfs of 24 MiB, and a model of 40; then one that fits."""
    disk = path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", disk], check=True)
    try:
        (path / "shop").mkdir()
        shop = Shop(path / "shop", size=40 * MIB)
        asyncio.run(shop.push())
        shop.cache = Cache(disk / "cache", 1 << 30)
        for is_told in (True, False):  # before it begins, and when the kernel says so
            if not is_told:
                shop.cache._make_room = lambda *_a, **_k: None  # type: ignore[method-assign]
            try:
                asyncio.run(shop.pull().obtain(shop.digest))
                raise AssertionError("40 MiB fit into 24")
            except CacheFull as error:
                say(f"full: {error.message}")
            assert not files(disk / "cache" / "part") and not files(disk / "cache" / "whole")
        (path / "small").mkdir()
        small = Shop(path / "small", size=6 * MIB)
        asyncio.run(small.push())
        small.cache = Cache(disk / "cache", 1 << 30)
        held = asyncio.run(small.pull().obtain(small.digest))
        assert small.same(held.folder)
        held.release()  # its lock is a file on that disk
    finally:
        subprocess.run(["umount", disk], check=True)


async def engine(path: Path) -> None:
    """A tiny Llama from a folder through replicas and cache to an engine that answers."""
    shop = Shop(path, size=1000)
    for file in files(shop.folder):
        file.unlink()
    tiny.make(shop.folder)
    shop.manifest = folder.scan(shop.folder)
    shop.digest = digest.of(manifest.encode(shop.manifest))
    await shop.push()
    source = f"artifact:{digest.address(shop.digest)}"
    card = ModelCard(name="t", version="1", engine="transformers", source=source, context=64)
    artifacts = ArtifactOptions(replicas=tuple(shop.urls), trust_dir=str(shop.trust))
    loaded = await loader.load(
        card, slots=1, queue=1, threads=1, cache_dir=path / "node", artifacts=artifacts
    )
    await loaded.close()
    say("an engine has loaded a signed artifact and answered")


def main() -> None:
    logs.configure("CRITICAL")
    os.environ["TETHER_TEST_S3_ACCESS_KEY_ID"] = S3Server.access
    os.environ["TETHER_TEST_S3_SECRET_ACCESS_KEY"] = S3Server.secret
    with tempfile.TemporaryDirectory(prefix="tether-") as scratch:
        root = Path(scratch)
        for name in ("stores", "full", "kills", "lent", "engine"):
            (root / name).mkdir()
        asyncio.run(stores(root / "stores"))
        if os.geteuid() == 0:
            full_disk(root / "full")
        else:
            say("no tmpfs without root: the full disk was not tried")
        kills(root / "kills")
        lent(root / "lent")
        asyncio.run(engine(root / "engine"))
    say("all as it should be")


def kills(path: Path) -> None:
    """Loaders killed at random operations, one after the other and several at once."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    draw = random.Random(int(sys.argv[2]) if len(sys.argv) > 2 else 1)
    shop = Shop(path, size=20 * MIB)
    asyncio.run(shop.push())
    loaders = Loaders(shop)
    operations = loaders.loaded(loaders.start())
    done = killed = 0
    while done < count:
        loaders.cache.evict(shop.digest)
        points = [draw.randrange(1, operations + 1) for _ in range(draw.choice((1, 1, 2, 3)))]
        processes = [loaders.start(point) for point in points]
        for process in processes:
            _, errors = process.communicate(timeout=300)
            assert process.returncode in (0, -9), errors
            killed += process.returncode != 0
        done += len(points)
        loaders.check()
    loaders.loaded(loaders.start())
    loaders.check()
    assert not files(loaders.cache.root / "part")
    say(f"{killed} of {done} loaders were killed, at {operations} operations; the cache is sound")


def lent(path: Path) -> None:
    """A model from nodes of two regions and replicas, any of which may fail while it comes."""
    sys.path.insert(0, str(Path(__file__).parent))  # where the tests find each other
    from tests.support.lending_nodes import Lending, lending

    count = max(1, (int(sys.argv[1]) if len(sys.argv) > 1 else 100) // 5)
    draw = random.Random(int(sys.argv[2]) if len(sys.argv) > 2 else 1)
    passed_over = 0

    async def once_more(cluster: Lending) -> None:
        nonlocal passed_over
        shop = await cluster.shop("n1", "n3", size=40 * MIB)
        if is_bad := draw.random() < 0.3:
            entry = cluster.cache("n1").whole(shop.digest)
            flip(entry.files / "model.safetensors", draw.randrange(40 * MIB))
            entry.write_stamps(shop.manifest)
        if draw.random() < 0.5:
            cluster.away(shop)
        doomed = await cluster.child_of("n1")
        stop = once(lambda: os.kill(doomed.pid, signal.SIGKILL), draw.random())
        replicas = shop.replicas(parallel=draw.choice((1, 2, 8)))
        lenders = cluster.lenders()
        held = await cluster.borrow(shop, lenders, stop, replicas)
        assert shop.same(held.folder)
        held.release()
        passed_over += not lenders.among(near=True)
        assert lenders.among(near=False), "n3 has done nothing wrong"
        assert lenders.among(near=True) == [] or not is_bad
        await cluster.child_of("n1", but_not=doomed.pid)
        for node in ("n1", "n3"):
            shutil.rmtree(cluster.cache(node).root / "whole" / shop.digest)
        shutil.rmtree(shop.path)

    with lending(path, {"n1": "north", "n2": "north", "n3": "south"}) as cluster:
        for node in ("n1", "n3"):
            asyncio.run(cluster.grow(node, cluster.depot(node, idle_s=0.5)))
        for _ in range(count):
            asyncio.run(once_more(cluster))
    say(f"{count} models came whole, while their lender was killed; {passed_over} were passed over")


if __name__ == "__main__":
    clean_up_on_sigterm()
    main()
