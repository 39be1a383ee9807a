"""How a proof runs: it says what it sees, cleans up after SIGTERM too, and ends with 1 if
something is not as it should be."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections.abc import Coroutine
from typing import Any


class Report:
    """Rows of a table, or one object a line. Without `widths` it only keeps what it finds."""

    def __init__(self, proof: str, widths: dict[str, int], *, as_json: bool = False) -> None:
        self._proof, self._widths, self._json = proof, widths, as_json
        self.found: list[str] = []  # all that is not right
        self.seen: list[dict[str, Any]] = []  # the rows
        if widths and not as_json:
            print(
                "    " + "".join(f"{name:>{width}}" for name, width in widths.items()), flush=True
            )

    def row(self, seen: dict[str, Any], faults: list[str]) -> None:
        """What was seen, and what of it is wrong."""
        self.found += faults
        self.seen += [seen] if seen else []
        if self._json:
            told = {"proof": self._proof, "holds": not faults, **seen, "faults": faults[:20]}
            print(json.dumps(told), flush=True)
            return
        if not self._widths:
            return
        cells = "".join(f"{_cell(seen.get(name, '')):>{w}}" for name, w in self._widths.items())
        print(f"{'NOT' if faults else 'ok':4}{cells}", flush=True)
        for fault in faults[:8]:
            print(f"      {fault}", flush=True)
        if len(faults) > 8:
            print(f"      and {len(faults) - 8} more", flush=True)

    def ended(self, node: str, code: int) -> None:
        """A node that was told to stop."""
        if code:
            self.row({}, [f"{node} ended with {code} when it was told to stop"])

    def say(self, sentence: str) -> None:
        """On the way; beside the objects where there are some."""
        out = sys.stderr if self._json else sys.stdout
        if self._json or self._widths:
            print(f"{time.strftime('%H:%M:%S')} {sentence}", file=out, flush=True)


def _cell(value: Any) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def run(proof: Coroutine[Any, Any, list[str]]) -> int:
    """The exit code: 1 if it found something. SIGTERM (of `timeout`, say) undoes all that runs."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    return 1 if asyncio.run(proof) else 0
