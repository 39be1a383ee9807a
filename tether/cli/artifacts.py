"""`tether models` and `tether artifacts`: weights between a folder, the replicas and the cache."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskProgressColumn, TextColumn

from actors.artifacts import digest as digests
from actors.artifacts import folder as folders
from actors.artifacts import layout, names, signing, source
from actors.artifacts.cache import Cache, Held
from actors.artifacts.collect import Collected, collect
from actors.artifacts.entry import Damaged
from actors.artifacts.manifest import Manifest
from actors.artifacts.pull import Pull
from actors.artifacts.push import Push
from actors.artifacts.repair import repair as repair_all
from actors.artifacts.replicas import Replicas
from actors.artifacts.trust import FILE, Trust
from actors.errors import ArtifactRefused
from supervision.errors import TetherError
from supervision.telemetry import logs
from tether.cli import used
from tether.cli.failure import CommandFailed
from tether.config import Config, load
from tether.node.plan import artifacts_of


def push(
    path: Path, folder: Path, ref: str, *, key: Path | None, signature: Path | None, unsigned: bool
) -> int:
    """Send a folder to the replicas, and print its address alone on standard output.

    Raises:
        CommandFailed: it isn't said how it is signed.
    """
    config = configured(path)
    if (key is not None) + (signature is not None) + unsigned != 1:
        raise CommandFailed("say --key FILE, --signature FILE or --unsigned, one of them", code=2)
    layout.ref(ref)
    artifacts = config.artifacts
    replicas = Replicas.of(artifacts)
    work = Push(replicas, min_replicas=artifacts.min_replicas, quorum=artifacts.quorum)
    size = sum((folder / name).stat().st_size for name in folders.listed(folder))
    with _bar("reading", size) as told:
        manifest = folders.scan(folder, told=told)
    bundles = _signed(folder, manifest, key, signature)
    with _bar("sending", manifest.size) as told:
        done = asyncio.run(work.push(folder, manifest, ref=ref, signatures=bundles, told=told))
    print(done.address)
    count = len(replicas.all)
    _say(f"{ref} is at {len(done.acknowledged)} of {count} replicas; {done.sent} blocks sent")
    _warn(config, done.address, manifest, bundles)
    for why in done.left_out.values():
        _say(f"left out: {why}; `tether artifacts repair` completes it later")
    return 0


def sign(path: Path, which: str, *, key: Path | None, signature: Path | None) -> int:
    """Add a signature to what is at the replicas already, such as with a new key."""
    if (key is None) == (signature is None):
        raise CommandFailed("say --key FILE or --signature FILE, one of them", code=2)
    config = configured(path)
    replicas, held = _obtained(config, which)
    [bundle] = _signed(held.folder, held.manifest, key, signature)
    work = Push(replicas, min_replicas=1, quorum=config.artifacts.quorum)
    where = asyncio.run(work.sign(held.entry.digest, bundle))
    print(f"signed {digests.address(held.entry.digest)} at {len(where)} replicas")
    return 0


def pull(path: Path, which: str, *, pin: bool) -> int:
    """Bring an artifact into the cache, and print its folder."""
    config = configured(path)
    replicas, held = _obtained(config, which)
    if pin:
        _cache(config).pin(held.entry.digest)
    print(held.folder)
    report(replicas)
    return 0


def pin(path: Path, which: str, *, pinned: bool) -> int:
    """Keep an artifact in the cache whatever happens, or not any more."""
    config = configured(path)
    digest = asyncio.run(names.resolve(Replicas.of(config.artifacts), which))
    cache = _cache(config)
    (cache.pin if pinned else cache.unpin)(digest)
    return 0


def verify(path: Path, which: str) -> int:
    """Read every byte of an artifact in the cache again; it is fetched first if it isn't there.

    Raises:
        CommandFailed: a file is not what it should be.
    """
    config = configured(path)
    replicas, held = _obtained(config, which)
    try:
        with _bar("verifying", held.manifest.size) as told:
            held.entry.check(held.manifest, deep=True, told=told)
    except Damaged as damage:
        _cache(config).condemn(held.entry.digest)
        raise CommandFailed(f"{damage}; it was removed, and is fetched again when needed") from None
    address = digests.address(held.entry.digest)
    trust = source.trust_of(artifacts_of(config))
    if trust is None:
        print(f"{address}: {len(held.manifest.files)} files are whole; signed by: not asked")
    else:
        signer = trust.check(address, held.manifest, held.entry.signatures(), source.now())
        print(f"{address}: {len(held.manifest.files)} files are whole; signed by: {signer}")
    report(replicas)
    return 0


def repair(path: Path, node: str, *, quick: bool) -> int:
    """Make every replica whole; 1 if something is lost, or a replica can't be reached."""
    config = configured(path)
    replicas = Replicas.of(config.artifacts)
    keep = used.configured(config)
    try:
        keep |= asyncio.run(used.registered(path, node, 0.0))
    except (CommandFailed, TetherError) as error:
        _say(f"what only the registry refers to is left out: {error}")
    with _fraction() as told:
        done = asyncio.run(repair_all(replicas, keep=keep, deep=not quick, progress=told))
    print(f"checked {done.checked} objects, repaired {done.repaired}")
    report(replicas)
    for name in done.away:
        _say(f"{name} can't be reached, and was not repaired")
    for name in done.lost:
        _say(f"no replica has {name} whole; push the model again")
    return 1 if done.lost or done.away else 0


def gc(path: Path, node: str, *, grace_hours: float) -> int:
    """Remove from the replicas what nothing refers to.

    Raises:
        CommandFailed: the registry's database can't be asked, or a version is being registered.
    """
    config = configured(path)
    replicas = Replicas.of(config.artifacts)
    grace = timedelta(hours=grace_hours)

    async def run(keep: Collection[str]) -> Collected:
        return await collect(replicas, now=source.now(), grace=grace, keep=keep)

    done = asyncio.run(used.collecting(config, path, node, grace.total_seconds(), run))
    print(f"removed {done.removed} objects, {done.removed_bytes} bytes")
    if done.condemned:
        print(f"{done.condemned} more are unused, and go with a run {grace_hours:g} h from now")
    return 0


def forget(path: Path, ref: str) -> int:
    """Take a name away at all replicas; what it stood for goes with the next collections."""
    config = configured(path)
    asyncio.run(names.forget(Replicas.of(config.artifacts), ref))
    print(f"forgot {ref}; `tether artifacts gc` removes what nothing else refers to")
    return 0


# ---- what they share


def configured(path: Path) -> Config:
    """The configuration, for commands that say themselves what went wrong."""
    logs.configure(os.environ.get("TETHER_LOG_LEVEL") or "CRITICAL")  # `report` says it shorter
    return load(path)


def _cache(config: Config) -> Cache:
    return source.cache_of(config.cache_dir, config.artifacts)


def _obtained(config: Config, which: str) -> tuple[Replicas, Held]:
    artifacts = artifacts_of(config)
    if artifacts.trust == "off":
        _say('trust = "off": nobody vouches for what is loaded')
    replicas = Replicas.of(artifacts)
    pull = Pull(_cache(config), replicas, source.trust_of(artifacts), source.now)

    async def obtain(told: Callable[[str, float], None]) -> Held:
        return await pull.obtain(await names.resolve(replicas, which), told)

    with _fraction() as told:
        return replicas, asyncio.run(obtain(told))


def _signed(
    folder: Path, manifest: Manifest, key: Path | None, signature: Path | None
) -> list[bytes]:
    if key is not None:
        return [signing.sign(folder, manifest, key)]
    if signature is None:
        return []
    try:
        return [signature.read_bytes()]
    except OSError as error:
        raise CommandFailed(f"{signature} can't be read: {error.strerror}") from None


def _warn(config: Config, address: str, manifest: Manifest, bundles: list[bytes]) -> None:
    """If nodes that trust whom this machine trusts would not load it."""
    if config.artifacts.trust == "off" or not (config.trust_dir / FILE).exists():
        return
    try:
        Trust.load(config.trust_dir).check(address, manifest, bundles, source.now())
    except ArtifactRefused as error:
        _say(f"nodes with the trust store {config.trust_dir} will not load it: {error.message}")


def report(replicas: Replicas) -> None:
    """What was wrong with them, on standard error."""
    for (name, fault), count in sorted(replicas.faults.items()):
        _say(f"{name}: {fault.value} {count} times; `tether artifacts repair` mends it")


def _say(sentence: str) -> None:
    print(f"tether: {sentence}", file=sys.stderr)


@contextmanager
def _bar(what: str, size: int) -> Iterator[Callable[[int], None]]:
    """A bar of bytes on standard error, on a terminal only."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=size)
        yield lambda done: progress.advance(task, done)


@contextmanager
def _fraction() -> Iterator[Callable[[str, float], None]]:
    """A bar of what is said, on standard error, on a terminal only."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("asking", total=1.0)
        yield lambda what, done: progress.update(task, description=what, completed=done)
