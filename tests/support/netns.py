"""A small network of namespaces on one machine (ip-netns(8)): a hub with a bridge, and hosts.

Needs root and iproute2. Names carry our pid, so that what a killed run has left is found and
removed.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Final

PREFIX: Final = "tether-"
SUBNET: Final = "10.231.7"
_CLONE_NEWNET: Final = 0x40000000  # setns(2)


class Network:
    """`hosts` get the addresses .11, .12 …; the hub, where we are after `enter`, has .1."""

    def __init__(self, hosts: tuple[str, ...]) -> None:
        self.hosts = {host: f"{SUBNET}.{11 + number}" for number, host in enumerate(hosts)}
        self.hub = f"{SUBNET}.1"

    def __enter__(self) -> Network:
        sweep()
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def inside(self, host: str) -> tuple[str, ...]:
        """What is put before a command that is to run at `host`."""
        return ("ip", "netns", "exec", _name(host))

    def link(self, host: str, *, up: bool) -> None:
        """Cut the host's link, at the hub's end of it, or heal it."""
        _ip("-n", _name("hub"), "link", "set", f"v-{host}", "up" if up else "down")

    def enter(self) -> None:
        """Move this thread, and what it starts from now on, to the hub."""
        libc = ctypes.CDLL(None, use_errno=True)
        with Path(f"/run/netns/{_name('hub')}").open() as handle:
            if libc.setns(handle.fileno(), _CLONE_NEWNET):
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number))

    def close(self) -> None:
        """Kill what runs in it, and remove it. Safe to call twice."""
        for name in _names(f"{PREFIX}{os.getpid()}-"):
            _remove(name)

    def _build(self) -> None:
        hub = _name("hub")
        _ip("netns", "add", hub)
        _ip("-n", hub, "link", "set", "lo", "up")
        _ip("-n", hub, "link", "add", "br0", "type", "bridge")
        _ip("-n", hub, "addr", "add", f"{self.hub}/24", "dev", "br0")
        _ip("-n", hub, "link", "set", "br0", "up")
        for host, address in self.hosts.items():
            there = _name(host)
            _ip("netns", "add", there)
            _ip("-n", hub, "link", "add", f"v-{host}", "type", "veth", "peer", "name", "eth0",
                "netns", there)  # fmt: skip
            _ip("-n", hub, "link", "set", f"v-{host}", "master", "br0", "up")
            _ip("-n", there, "link", "set", "lo", "up")
            _ip("-n", there, "addr", "add", f"{address}/24", "dev", "eth0")
            _ip("-n", there, "link", "set", "eth0", "up")


def sweep() -> None:
    """Remove the namespaces of runs that are over."""
    for name in _names(PREFIX):
        pid = name.removeprefix(PREFIX).partition("-")[0]
        if pid.isdecimal() and int(pid) != os.getpid() and not Path(f"/proc/{pid}").exists():
            _remove(name)


def _name(host: str) -> str:
    return f"{PREFIX}{os.getpid()}-{host}"


def _names(prefix: str) -> list[str]:
    shown = subprocess.run(("ip", "netns", "list"), capture_output=True, text=True, check=True)
    names = (line.split()[0] for line in shown.stdout.splitlines() if line.strip())
    return [name for name in names if name.startswith(prefix)]


def _remove(name: str) -> None:
    """Its processes first: they would keep it, and its addresses."""
    until = time.monotonic() + 10
    while pids := [p for p in _pids(name) if p != os.getpid()]:
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if time.monotonic() > until:
            break
        time.sleep(0.05)
    subprocess.run(("ip", "netns", "del", name), check=False, capture_output=True)


def _pids(name: str) -> list[int]:
    shown = subprocess.run(
        ("ip", "netns", "pids", name), capture_output=True, text=True, check=False
    )
    return [int(word) for word in shown.stdout.split()]


def _ip(*words: str) -> None:
    done = subprocess.run(("ip", *words), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.strip() or done.returncode}")
