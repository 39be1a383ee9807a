"""`scripts/prove fleet`: a fleet starts from one node that has the model, all replicas being away.

Three nodes as real processes (`tether up`), each with a cache of its own. The first fetches a
signed model from a replica; then all replicas are removed, and the other two start at once, in the
own region and in another. Each must have the model whole from a neighbour, and answer with it.
Exits 1 at the first thing that is not as it should be.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import httpx2

from actors.artifacts import digest, folder, manifest
from actors.stores.embedded import Embedded
from tests.support import tiny_gguf
from tests.support.artifact_shop import Shop, files
from tests.support.cluster_process import Member, certify
from tests.support.node_process import tether
from tests.support.ports import free_port
from tests.support.termination import clean_up_on_sigterm

NODES = {"n1": "north", "n2": "north", "n3": "south"}


def say(sentence: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {sentence}", flush=True)


def shop_of(path: Path) -> Shop:
    """A tiny model, signed, at three replicas."""
    path.mkdir()
    shop = Shop(path, size=1000)
    for file in files(shop.folder):
        file.unlink()
    with tempfile.TemporaryDirectory() as scratch:
        shutil.move(tiny_gguf.make(Path(scratch)), shop.folder / "tiny.gguf")
    shop.manifest = folder.scan(shop.folder)
    shop.digest = digest.of(manifest.encode(shop.manifest))
    asyncio.run(shop.push())
    return shop


def config_of(path: Path, shop: Shop, dsn: str) -> None:
    lines = [
        "[node]", 'data_dir = "data/{node}"', 'cache_dir = "cache/{node}"',
        'identity_dir = "ca/nodes/{node}"', 'metrics = "127.0.0.1:0"', "[http]", "port = 0",
        "[stores]", f"postgres = {json.dumps(dsn)}",
        "[artifacts]", f"replicas = {json.dumps(shop.urls)}",
        f"trust_dir = {json.dumps(str(shop.trust))}", "peer_bandwidth = 100_000_000",
        "[[models]]", 'name = "tiny"', 'engine = "gguf"', "context = 128",
        f'source = "artifact:{digest.address(shop.digest)}"',
        "[[workers]]", 'id = "w"', 'models = ["tiny"]',
    ]  # fmt: skip
    for node, region in NODES.items():
        lines += [
            "[[nodes]]", f'id = "{node}"', 'host = "127.0.0.1"', f"admin_port = {free_port()}",
            f'region = "{region}"', f"leader = {str(node != 'n2').lower()}",
        ]  # fmt: skip
    (path / "cluster.toml").write_text("\n".join(lines))


def answered(member: Member, key: str) -> str:
    with httpx2.Client(base_url=member.state["url"], timeout=60) as client:
        found = client.post(
            "/v1/chat/completions",
            headers={"authorization": f"Bearer {key}"},
            json={
                "model": "tiny",
                "max_tokens": 4,
                "messages": [{"role": "user", "content": "the fox"}],
            },
        )
    assert found.status_code == 200, found.text
    return str(found.json()["choices"][0]["finish_reason"])


def fleet(path: Path, dsn: str) -> None:
    shop = shop_of(path / "shop")
    config_of(path, shop, dsn)
    certify(path, list(NODES))
    members = {node: Member(path, node) for node in NODES}
    with ExitStack() as stack:
        for member in members.values():
            stack.callback(member.kill)
        members["n1"].start()
        members["n1"].wait_ready()
        for url in shop.urls:
            shutil.rmtree(url.removeprefix("file://"))
        say("n1 has the model from a replica, and all replicas are gone now")
        made = tether("keys", "create", "acme", "--node", "n1", cwd=path)
        assert made.returncode == 0, made.stderr
        began = time.monotonic()
        for node in ("n2", "n3"):
            members[node].start()
        for node, member in members.items():
            member.wait_ready()
            whole = path / "cache" / node / "artifacts" / "whole" / shop.digest
            assert shop.same(whole / "files"), node
            assert len(list((whole / "signatures").iterdir())) == 1
            assert member.tree()["depot"]["state"] == "running"
            say(f"{node} answers: {answered(member, made.stdout.split()[-1])}")
        say(f"n2 and n3 were up within {time.monotonic() - began:.1f} s")
        for member in members.values():
            assert member.stop() == 0, member.tail()


def main() -> None:
    with (
        tempfile.TemporaryDirectory(prefix="tf-") as scratch,
        tempfile.TemporaryDirectory(prefix="tc-") as sockets,
    ):
        database = Embedded(Path(scratch) / "postgres", Path(sockets))
        dsn = asyncio.run(database.start())
        try:
            fleet(Path(scratch), dsn)
        finally:
            asyncio.run(database.stop())
    say("all as it should be")


if __name__ == "__main__":
    clean_up_on_sigterm()
    main()
