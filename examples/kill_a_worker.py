"""A worker is killed in the middle of an answer: the client gets all of it, and one bill.

    .venv/bin/python -m examples.kill_a_worker

Starts a node with the echo model and two workers in a temporary folder, and stops it.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg

CLUSTER = """
[node]
cache_dir = "cache"
metrics = ""                # nobody scrapes it
[http]
port = 0                    # a free one
[[models]]
name = "echo"
engine = "echo"
[[workers]]
id = "echo"
models = ["echo"]
count = 2
"""
WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
TOKENS, PACE_MS = 300, 20  # words of the answer, and how far apart: it takes six seconds
KILL_AT = 50
START_S, STOP_S, SETTLE_S = 120.0, 60.0, 30.0
TETHER = (sys.executable, "-m", "tether.cli")


@contextmanager
def node() -> Iterator[Path]:
    """The folder of a node that answers; it is stopped, and the folder is gone, afterwards."""
    with tempfile.TemporaryDirectory(prefix="tether-") as name:
        folder = Path(name)
        (folder / "cluster.toml").write_text(CLUSTER)
        up = subprocess.Popen(
            [*TETHER, "up", "--log-file", "up.log"], cwd=folder, stdin=subprocess.DEVNULL
        )
        try:
            until = time.monotonic() + START_S
            while not state(folder).get("ready"):
                if up.poll() is not None or time.monotonic() > until:
                    sys.exit(f"the node did not come up:\n{(folder / 'up.log').read_text()}")
                time.sleep(0.05)
            yield folder
        finally:
            up.terminate()
            try:
                up.wait(STOP_S)
            except subprocess.TimeoutExpired:
                up.kill()  # its processes end by themselves when it is gone
                up.wait()


def state(folder: Path) -> dict[str, Any]:
    """What the node says of itself: its URL, its database, whether it is ready."""
    path = folder / ".tether" / "node.json"
    return json.loads(path.read_text()) if path.exists() else {}


def command(folder: Path, *args: str) -> str:
    """What a command of Tether prints."""
    done = subprocess.run([*TETHER, *args], cwd=folder, stdout=subprocess.PIPE, check=True)
    return done.stdout.decode().strip()


def row(folder: Path, statement: str) -> dict[str, Any]:
    """The first row of an SQL statement; empty if there is none."""

    async def fetch() -> dict[str, Any]:
        connection = await asyncpg.connect(state(folder)["dsn"])
        try:
            return dict(await connection.fetchrow(statement) or {})
        finally:
            await connection.close()

    return asyncio.run(fetch())


def words(folder: Path, key: str) -> Iterator[str]:
    """The answer, a word at a time, as it streams in."""
    connection = http.client.HTTPConnection(urlsplit(state(folder)["url"]).netloc, timeout=60)
    said = " ".join([f"delay={PACE_MS}", *WORDS])
    body = {"model": "echo", "messages": [{"role": "user", "content": said}], "stream": True}
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    request = json.dumps({**body, "max_tokens": TOKENS})
    connection.request("POST", "/v1/chat/completions", request, headers)
    for line in connection.getresponse():
        if not line.startswith(b"data: {"):
            continue
        event = json.loads(line.removeprefix(b"data: "))
        if "error" in event:
            sys.exit(f"the answer broke off: {event['error']['message']}")
        yield from (event["choices"][0]["delta"].get("content") or "").split()
    connection.close()


def kill_the_worker(folder: Path) -> str:
    """SIGKILL the process that computes the answer; tells who it was."""
    worker = row(folder, "SELECT worker_id FROM jobs WHERE state = 'running'")["worker_id"]
    tree = map(json.loads, command(folder, "tree", "--json").splitlines())
    pid = next(child["pid"] for child in tree if child["path"] == f"workers/{worker}")
    os.kill(pid, signal.SIGKILL)
    return str(worker)


def settled(folder: Path) -> dict[str, Any]:
    """The row of the job, which is settled right after its answer has left."""
    until = time.monotonic() + SETTLE_S
    while time.monotonic() < until:
        if job := row(folder, "SELECT * FROM jobs WHERE state = 'settled'"):
            return job
        time.sleep(0.05)
    sys.exit(f"the job was not settled within {SETTLE_S:g} s")


def main() -> None:
    """Ask, kill, read on, look at the books."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to stop"))  # and the node with it
    with node() as folder:
        key = command(folder, "keys", "create", "example")
        heard: list[str] = []
        killed = ""
        for word in words(folder, key):
            heard.append(word)
            if len(heard) == KILL_AT:
                killed = kill_the_worker(folder)
                print(f"{len(heard)} words came, then {killed} was killed with SIGKILL")
        print(f"{len(heard)} words came in all, of {TOKENS}")
        whole = heard == [WORDS[at % len(WORDS)] for at in range(TOKENS)]
        print(f"whole and in order: {'yes' if whole else 'NO'}")
        job = settled(folder)
        print(f"the job: {job['outcome']} by {job['worker_id']}, in attempt {job['attempt']}")
        bill = "SELECT count(*) AS bills, sum(output_tokens) AS tokens FROM ledger"
        ledger = row(folder, bill)
        print(f"the ledger: {ledger['bills']} bill, for {ledger['tokens']} tokens")
        if not whole or (ledger["bills"], ledger["tokens"]) != (1, TOKENS) or job["attempt"] < 2:
            sys.exit("that is not what was promised")
    print("the node is stopped")


if __name__ == "__main__":
    main()
