"""`scripts/prove strangers [SECONDS]`: strangers hold on to the front door, for SECONDS (60).

2,000 have sent half a body and 2,000 send one byte a second, from eight loopback addresses and then
all from one.

A tenant asks a whole node meanwhile, a quarter of the requests on new connections: every answer is
200, the 99th percentile at most twice what it was just before, alone. The door's memory is at
most 200 MiB at its highest. Prints what was seen; exits 1 at what is not as it should be.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tests.support.node_process import Launcher, Node, write_config
from tests.support.tenant import Seen, Tenant
from tests.support.termination import clean_up_on_sigterm
from tests.support.waiting import PATIENCE_S

MAX_MIB = 200.0
MAX_RATIO = 2.0


@dataclass
class Case:
    """One wave of strangers: what the tenant saw before it and in it."""

    addresses: int
    alone: Seen
    beside: Seen
    strangers: dict[str, int]
    peak_mib: float

    @property
    def ratio(self) -> float:
        """Of the 99th percentiles."""
        return self.beside.quantile(0.99) / self.alone.quantile(0.99)

    def __str__(self) -> str:
        def times(seen: Seen) -> str:
            return "/".join(f"{seen.quantile(share) * 1000:.1f}" for share in (0.5, 0.99))

        return (
            f"{self.addresses} addresses: {dict(self.beside.statuses)} of "
            f"{sum(self.beside.statuses.values())}; p50/p99 {times(self.alone)} ms alone, "
            f"{times(self.beside)} ms beside, {self.ratio:.2f} times; the door's memory at most "
            f"{self.peak_mib:.0f} MiB; strangers saw {self.strangers}"
        )


def peak_mib(node: Node) -> float:
    """The most resident memory that the door had, proc(5)."""
    status = Path(f"/proc/{node.tree()['doors/0']['pid']}/status").read_text()
    (kib,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    return int(kib) / 1024


async def wave(node: Node, seconds: float, *, half: int, slow: int, addresses: int) -> Case:
    """The tenant alone, and then beside strangers."""
    port = urlsplit(node.url).port
    assert port is not None
    tenant = Tenant(port, node.key)
    try:
        await tenant.asks(2.0)  # so that all is warm
        alone = await tenant.asks(seconds)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.support.strangers", str(port), "--half", str(half),
            "--slow", str(slow), "--seconds", str(seconds + 2), "--addresses", str(addresses),
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            assert process.stdout is not None
            async with asyncio.timeout(PATIENCE_S):
                assert await process.stdout.readline() == b"all\n"
            beside = await tenant.asks(seconds)
            said, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    finally:
        tenant.close()
    return Case(addresses, alone, beside, json.loads(said), peak_mib(node))


async def prove(seconds: float) -> int:
    wrong = 0
    launcher = Launcher()
    with tempfile.TemporaryDirectory(prefix="tether-") as folder:
        try:
            write_config(Path(folder), more="[limits]\nrequests_per_minute = 1000000\n")
            node = launcher(Path(folder))
            for addresses in (8, 1):
                case = await wave(node, seconds, half=2000, slow=2000, addresses=addresses)
                print(case, flush=True)
                wrong += set(case.beside.statuses) != {"200"}
                wrong += case.ratio > MAX_RATIO
                wrong += case.peak_mib > MAX_MIB
            node.stop()
        finally:
            launcher.close()
    print("not as it should be" if wrong else "as it should be")
    return 1 if wrong else 0


if __name__ == "__main__":
    clean_up_on_sigterm()
    sys.exit(asyncio.run(prove(float(sys.argv[1]) if len(sys.argv) > 1 else 60.0)))
