"""`scripts/bench artifacts [--json] [--mib N]`: how fast artifacts are verified, beside hashlib.

One file of random weights. `hashlib` is SHA-256 over memory, `read + hashlib` over the same file
in the page cache; then what Tether does: verifying a file in the cache, scanning a folder (each
byte is hashed twice: block and file), pushing to three folders, pulling from one (as blocks when
they come, and as files when they lie on disk), the same from another node over mutual TLS on
loopback (whose own work counts by the clock, not as processor time), and finding a model that
is in the cache.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from actors.artifacts import digest, folder, manifest
from actors.artifacts.cache import Cache
from actors.artifacts.entry import verify_file
from actors.artifacts.manifest import BLOCK
from actors.artifacts.options import ArtifactOptions
from actors.artifacts.pull import Pull
from actors.artifacts.push import Push
from actors.artifacts.replica import Replica
from actors.artifacts.replicas import Replicas
from actors.artifacts.source import cache_of
from bench._lending_nodes import LendingNodes
from supervision.telemetry import logs

ROUNDS = 3


def model(path: Path, size: int) -> Path:
    """A folder with `size` bytes of random weights."""
    path.mkdir()
    head = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    with (path / "model.safetensors").open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for start in range(0, size, BLOCK):
            file.write(os.urandom(min(BLOCK, size - start)))
    (path / "config.json").write_text("{}")
    return path


class Rate(NamedTuple):
    """GB/s as a clock sees it, and per second of processor time: of one core that is free."""

    wall: float
    core: float


def rate(work: Callable[[], object], size: int, rounds: int = ROUNDS) -> Rate:
    """The best of some rounds, by both measures."""
    walls, cores = [], []
    for _ in range(rounds):
        began, spent = time.perf_counter(), time.process_time()
        work()
        walls.append(time.perf_counter() - began)
        cores.append(time.process_time() - spent)
    return Rate(size / min(walls) / 1e9, size / min(cores) / 1e9)


def measure(root: Path, size: int) -> tuple[dict[str, Rate], float]:
    """Rates by what is done; milliseconds to find what is in the cache."""
    source = model(root / "model", size)
    weights = source / "model.safetensors"
    content = weights.read_bytes()
    results: dict[str, Rate] = {}

    def read_and_hash() -> None:
        with weights.open("rb") as file:
            hashlib.file_digest(file, "sha256")

    view = memoryview(content)
    parts = [view[at : at + BLOCK] for at in range(0, size, BLOCK)]
    results["hashlib"] = rate(lambda: [digest.of(part) for part in parts], size)
    results["read + hashlib"] = rate(read_and_hash, size)
    made = folder.scan(source)
    file = next(file for file in made.files if file.name == weights.name)
    results["verify a file"] = rate(lambda: verify_file(weights, file), size)
    results["scan a folder"] = rate(lambda: folder.scan(source), size)

    stores = [root / f"replica-{number}" for number in range(3)]
    for store in stores:
        store.mkdir()
    replicas = Replicas([Replica(store.as_uri()) for store in stores])

    def push() -> None:
        asyncio.run(Push(replicas).push(source, made, ref="bench@1"))

    results["push to three folders"] = rate(push, size, rounds=1)
    wanted = digest.of(manifest.encode(made))
    cache = cache_of(root / "cache", ArtifactOptions(cache_bytes=1 << 50))

    def obtain() -> None:
        pull = Pull(cache, replicas, None, lambda: datetime.now(UTC))
        asyncio.run(pull.obtain(wanted)).release()

    def bring() -> None:
        cache.evict(wanted)
        obtain()

    results["pull from a folder"] = rate(bring, size)
    obtain()
    results["pull from a peer"] = lent(cache, root, wanted, size)
    return results, 1e3 / rate(obtain, 10**9).wall


def lent(cache: Cache, root: Path, wanted: str, size: int) -> Rate:
    """From the cache of another node, when all replicas are away."""
    nodes = LendingNodes(cache.root.parent)
    away = Replicas([Replica((root / "away").as_uri())])
    borrowed = Cache(root / "borrowed", 1 << 50)

    async def borrow() -> None:
        peers = nodes.lenders.asking()
        pull = Pull(borrowed, away, None, lambda: datetime.now(UTC), peers)
        try:
            (await pull.obtain(wanted)).release()
        finally:
            await peers.aclose()

    def bring() -> None:
        borrowed.evict(wanted)
        asyncio.run(borrow())

    try:
        return rate(bring, size)
    finally:
        nodes.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--mib", type=int, default=256)
    options = parser.parse_args()
    logs.configure("ERROR")
    with tempfile.TemporaryDirectory() as scratch:
        results, found_ms = measure(Path(scratch), options.mib << 20)
    if options.json:
        rates = {name: value._asdict() for name, value in results.items()}
        print(json.dumps({"gb_per_s": rates, "found_ms": found_ms}))
        return
    table = Table("what", "GB/s", "GB/s per core", "of hashlib", box=None, pad_edge=False)
    for name, value in results.items():
        share = f"{value.core / results['hashlib'].core:.0%}"
        table.add_row(name, f"{value.wall:.2f}", f"{value.core:.2f}", share)
    Console().print(table)
    print(f"found in the cache, and verified by its stamps: {found_ms:.1f} ms")


if __name__ == "__main__":
    main()
