"""`python -m tests.support.probing_host FD PARENT TITLE SANDBOX`: the process of an engine as it
is, with an engine in it that tries what it must not. What it is to try is the prompt, as JSON, and
what came of it are the token ids, as bytes of JSON."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import resource
import socket
import sys
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import msgspec

from actors.contracts import Input, TextInput
from actors.engines import host
from actors.engines.engine import Capabilities, Snapshot
from actors.engines.engine_sandbox import EngineSandbox
from actors.engines.generation import Delta, Generation

_ATTACH, _DETACH, _DUMPABLE = 16, 17, 3  # ptrace(2), prctl(2)
_NEW_USER = 0x10000000
_MULTIPATH = 262  # IPPROTO_MPTCP


def _traced(pid: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(_ATTACH, pid, None, None):
        raise OSError(ctypes.get_errno(), "not traced")
    os.waitpid(pid, 0)
    libc.ptrace(_DETACH, pid, None, None)


def _unshared() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEW_USER):
        raise OSError(ctypes.get_errno(), "not unshared")


def _connected(kind: int, address: Any) -> None:
    with socket.socket(kind, socket.SOCK_STREAM) as sock:
        sock.connect(address)


def _told(address: Any) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"a secret", tuple(address))


def _connected_by_another(protocol: int, address: Any) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, protocol) as sock:
        sock.connect(tuple(address))


def _connected_by_sending(address: Any) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.sendto(b"a secret", socket.MSG_FASTOPEN, tuple(address))


def _told_by_path(path: str) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        ours.sendto(b"a secret", path)


def _handed(path: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.connect(path)
        _, descriptors, _, _ = socket.recv_fds(sock, 1, 2)
        if not os.pread(descriptors[1], 1 << 20, 0):
            raise OSError("nothing was handed over")


def _listening(port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.bind(("127.0.0.1", port))
        sock.listen()


TRIES: dict[str, Callable[[Any], object]] = {
    "read": lambda path: Path(path).read_bytes(),
    "list": lambda path: list(Path(path).iterdir()),
    "write": lambda path: Path(path).write_bytes(b"x"),
    "append": lambda path: os.close(os.open(path, os.O_WRONLY | os.O_APPEND)),
    "remove": lambda path: Path(path).unlink(),
    "open up": lambda path: Path(path).chmod(0o644),
    "run": lambda path: os.spawnv(os.P_WAIT, path, [path]) and _no_program(path),
    "trace": _traced,
    "signal": lambda pid: os.kill(pid, 0),
    "unix": lambda path: _connected(socket.AF_UNIX, path),
    "tcp": lambda address: _connected(socket.AF_INET, tuple(address)),
    "mptcp": lambda address: _connected_by_another(_MULTIPATH, address),
    "fast open": _connected_by_sending,
    "udp": _told,
    "unix datagram": _told_by_path,
    "handover": _handed,
    "listen": _listening,
    "namespace": lambda _: _unshared(),
    "thread": lambda _: asyncio.run(asyncio.to_thread(int)),
}


def _no_program(path: str) -> None:
    raise OSError(f"{path} did not run")


def _came_of(attempt: Callable[[Any], object], what: Any) -> str:
    try:
        attempt(what)
    except OSError as error:
        return type(error).__name__
    return "done"


class ProbingEngine:
    """See the module."""

    slots = 1
    capabilities = Capabilities(resume="prefix", tag="probe", context=1 << 20, chat=False)

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def prompt(self, input: Input) -> tuple[int, ...]:
        assert isinstance(input, TextInput)
        asked = json.loads(input.prompt)
        found: dict[str, Any] = {
            "tries": [await asyncio.to_thread(_came_of, TRIES[name], what) for name, what in asked],
            "environ": dict(os.environ),
            "core": resource.getrlimit(resource.RLIMIT_CORE),
            "dumpable": ctypes.CDLL(None).prctl(_DUMPABLE, 0, 0, 0, 0),
            "capabilities": next(
                int(line.split()[1], 16)
                for line in Path("/proc/self/status").read_text().splitlines()
                if line.startswith("CapEff")
            ),
        }
        return tuple(json.dumps(found).encode())

    def check(self, prompt_tokens: int, sampling: Any) -> None:
        pass

    async def run(self, generation: Generation) -> AsyncGenerator[Delta, None]:
        yield Delta((1,), "x", None)

    def snapshot(self) -> Snapshot:
        return Snapshot()


if __name__ == "__main__":
    host.create = lambda *_, **__: ProbingEngine()  # type: ignore[assignment]
    host.main(
        int(sys.argv[1]),
        int(sys.argv[2]),
        sys.argv[3],
        msgspec.json.decode(sys.argv[4], type=EngineSandbox),
    )
