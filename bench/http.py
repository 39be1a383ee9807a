"""What a request costs over HTTP: a whole node with the echo engine, beside bare processes.

    scripts/bench http [--json] [--seconds 4] [--cases unary,burst,paced] [--by-process]

Cases: `unary`, `/v1/chat/completions` with 8 tokens, as one answer; `burst`, a stream of 64 tokens
with no pause between them; `paced`, a stream of 64 tokens that are 10 ms apart. Connections are
kept; each sends its next request when the answer to the last has come. `tether` is a node as
`tether up` starts it: key, rate limit, session, placement, job and lease in PostgreSQL before,
usage and settling after. `bare` is `bench/http_floor.py`. The subjects take turns, case by case.

`cpu_ms` is the processor time per request of all processes of the subject, kernel included,
PostgreSQL apart (`postgres_cpu_ms`); `first_chunk_ms` is the median time to the first byte of a
body; the client's own time is `client_cpu_ms`.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tether.node.processes import of_home

CONFIG = """
[node]
admin_port = 1900
metrics = "127.0.0.1:0"
[http]
port = {port}
[limits]
requests_per_minute = 100000000
tokens_per_minute = 1000000000
max_concurrency = 100000
[[models]]
name = "echo"
engine = "echo"
context = 8192
[[workers]]
id = "echo"
models = ["echo"]
slots = 128
"""
WORDS = "one two three four five six seven eight"
DONE = b"data: [DONE]\n\n"
SPARES_S = 5.0  # a node that is up makes its spares first, which are no part of a request
TICKS = os.sysconf("SC_CLK_TCK")
TETHER = (sys.executable, "-m", "tether.cli")


class Case(NamedTuple):
    """One row of the table for each number in flight."""

    name: str
    in_flight: tuple[int, ...]
    body: dict[str, Any]
    ending: bytes

    def request(self, key: str) -> bytes:
        body = json.dumps(self.body).encode()
        return (
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\n"
            b"authorization: Bearer %s\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n%s"
        ) % (key.encode(), len(body), body)


def case(name: str, in_flight: tuple[int, ...], tokens: int, content: str, *, stream: bool) -> Case:
    messages = [{"role": "user", "content": content}]
    body = {"model": "echo", "messages": messages, "max_tokens": tokens, "stream": stream}
    return Case(name, in_flight, body, DONE if stream else b"")


CASES = (
    case("unary", (1, 16, 64), 8, WORDS, stream=False),
    case("burst", (1, 16, 64), 64, WORDS, stream=True),
    case("paced", (16,), 64, f"delay=10 {WORDS}", stream=True),
)


class Subject(ABC):
    """Something that listens on `port`."""

    name = ""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="tether-bench-"))
        self.port = free_port()
        self.key = "none"
        self.process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def start(self) -> None:
        """Returns when it answers, and has nothing left to do."""

    @abstractmethod
    def pids(self) -> Iterator[int]:
        """All of its processes."""

    def cpu_s(self) -> dict[str, float]:
        """Seconds of processor used so far, by process."""
        return {f"{name_of(pid)}:{pid}": used for pid in self.pids() if (used := cpu_of(pid))}

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


class Tether(Subject):
    name = "tether"

    def __init__(self) -> None:
        super().__init__()
        self.config = CONFIG.format(port=self.port)

    def start(self) -> None:
        (self.folder / "cluster.toml").write_text(self.config)
        with (self.folder / "up.log").open("wb") as log:
            self.process = subprocess.Popen(
                [*TETHER, "up"], cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        state = self.folder / ".tether" / "node.json"
        until = time.monotonic() + 120
        while not (state.is_file() and json.loads(state.read_text()).get("ready")):
            if self.process.poll() is not None or time.monotonic() > until:
                sys.exit(f"the node did not come up:\n{(self.folder / 'up.log').read_text()}")
            time.sleep(0.05)
        made = subprocess.run(
            [*TETHER, "keys", "create", "bench"], cwd=self.folder, capture_output=True,
            text=True, check=True, timeout=60,
        )  # fmt: skip
        self.key = made.stdout.strip()
        time.sleep(SPARES_S)

    def pids(self) -> Iterator[int]:
        assert self.process is not None
        yield self.process.pid
        home = (self.folder / ".tether").resolve()
        yield from of_home(home)
        yield from postgres_in(home)


class Bare(Subject):
    name = "bare"

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bench.http_floor", str(self.port)],
            stdin=subprocess.DEVNULL,
        )
        until = time.monotonic() + 30
        while not listens(self.port):
            if self.process.poll() is not None or time.monotonic() > until:
                sys.exit("the bare processes did not come up")
            time.sleep(0.05)

    def pids(self) -> Iterator[int]:
        assert self.process is not None
        pid = self.process.pid
        yield pid
        children = Path(f"/proc/{pid}/task/{pid}/children")
        yield from map(int, children.read_text().split())


def postgres_in(home: Path) -> Iterator[int]:
    """The processes of PostgreSQL whose data lies in `home`; they don't carry the node's mark."""
    for entry in Path("/proc").iterdir():
        try:
            if (
                entry.name.isdecimal()
                and (entry / "exe").resolve().name == "postgres"
                and (entry / "cwd").resolve().is_relative_to(home)
            ):
                yield int(entry.name)
        except OSError:
            continue


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def cpu_of(pid: int) -> float:
    """Seconds in user and kernel mode, proc(5); 0 when it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS


def name_of(pid: int) -> str:
    """`postgres` for processes of PostgreSQL, else the name that the process gave itself."""
    try:
        if Path(f"/proc/{pid}/exe").resolve().name == "postgres":
            return "postgres"
        name = Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "gone"
    return f"actor {name}" if name == "postgres" else name


async def measure(subject: Subject, case: Case, in_flight: int, seconds: float) -> dict[str, Any]:
    """One row: drives `subject` from another process, and reads its clocks meanwhile."""
    client = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench._load", "--port", str(subject.port),
        "--request", base64.b64encode(case.request(subject.key)).decode(),
        "--ending", base64.b64encode(case.ending).decode(),
        "--in-flight", str(in_flight), "--seconds", str(seconds),
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert client.stdout is not None
    async with asyncio.timeout(seconds + 60):
        await client.stdout.readline()
        before = subject.cpu_s()
        await client.stdout.readline()
        after = subject.cpu_s()
        seen = json.loads(await client.stdout.readline())
        await client.wait()
    requests = max(seen.pop("requests"), 1)
    spent = {name: used - before.get(name, 0.0) for name, used in after.items()}
    by_process = {name: round(used * 1000 / requests, 4) for name, used in spent.items() if used}
    postgres = sum(used for name, used in by_process.items() if name.startswith("postgres:"))
    return {
        "bench": "http",
        "subject": subject.name,
        "case": case.name,
        "in_flight": in_flight,
        **seen,
        "cpu_ms": round(sum(by_process.values()) - postgres, 4),
        "postgres_cpu_ms": round(postgres, 4),
        "by_process": by_process,
    }


COLUMNS = ("case", "in_flight", "subject", "per_s", "p50_ms", "p99_ms", "first_chunk_ms",
           "cpu_ms", "postgres_cpu_ms", "client_cpu_ms", "errors")  # fmt: skip


def show(row: dict[str, Any], options: argparse.Namespace) -> None:
    by_process = row.pop("by_process")
    if options.json:
        print(json.dumps(row), flush=True)
        return
    print("".join(f"{row[column]!s:>{max(len(column), 8) + 2}}" for column in COLUMNS), flush=True)
    if options.by_process:
        for name, used in sorted(by_process.items(), key=lambda item: -item[1]):
            print(f"    {used:8.4f} ms  {name}")


async def run(options: argparse.Namespace) -> int:
    subjects = (Tether(), Bare())
    errors = 0
    try:
        for subject in subjects:
            subject.start()
        if not options.json:
            print("".join(f"{column:>{max(len(column), 8) + 2}}" for column in COLUMNS))
        for case in CASES:
            if case.name not in options.cases.split(","):
                continue
            for in_flight in case.in_flight:
                for subject in subjects:
                    row = await measure(subject, case, in_flight, options.seconds)
                    errors += row["errors"]
                    show(row, options)
    finally:
        for subject in subjects:
            subject.stop()
    return 1 if errors else 0


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench http")
    parser.add_argument("--json", action="store_true", help="one object a line")
    parser.add_argument("--seconds", type=float, default=4.0, help="that count, of each case")
    parser.add_argument("--cases", default="unary,burst,paced")
    parser.add_argument("--by-process", action="store_true", help="cpu_ms of each process")
    sys.exit(asyncio.run(run(parser.parse_args())))


if __name__ == "__main__":
    main()
