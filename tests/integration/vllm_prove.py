"""The vllm engine in the environment that `scripts/install vllm` makes: what it alone has to show.

Started by `scripts/prove vllm`, not by CI: it takes gigabytes to install.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors.torch import load_file, save_file

from actors.contracts import ChatInput, Message, ModelCard, Sampling
from actors.engines import vllm_home
from actors.engines.engine import Engine, EngineOptions
from actors.engines.factory import create
from actors.engines.generation import Generation
from actors.engines.hosted import HostedEngine
from actors.engines.smollm2 import SOURCE
from actors.errors import ModelUnusable
from supervision.errors import Internal, PeerLost
from tests.support import adapter as adapters
from tests.support import tiny
from tests.support.waiting import PATIENCE_S, until
from tether.config import load

CACHE = load(Path(__file__).parents[2] / "cluster.toml").cache_dir
CONTEXT, TOKENS = 512, 48
QUESTIONS = ("tell me of the sea", "中文 😀", "the fox and the dog", "don't stop")
ADAPTERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "patterns": {
        "use_rslora": True,
        "rank_pattern": {"q_proj": 7, "layers.1.mlp.down_proj": 2},
        "alpha_pattern": {"v_proj": 3, "model.layers.0.self_attn.k_proj": 20.5},
        "exclude_modules": ["o_proj"],
    },
    "embeddings": {"target_modules": ["embed_tokens", "lm_head", "up_proj"], "r": 2},
    "some layers": {"target_modules": r".*\.(q|gate)_proj", "exclude_modules": r".*layers\.0.*"},
}
NAN = 99  # a token whose embedding is not a number, in one of the models

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(600)]


def card(source: str, *, adapter: str = "", dtype: str = "float32") -> ModelCard:
    return ModelCard(
        name="it", version="1", engine="vllm", source=source, context=CONTEXT, adapter=adapter,
        dtype=dtype,
    )  # fmt: skip


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama with heads as wide as vLLM's kernels need."""
    return tiny.make(tmp_path_factory.mktemp("wide"), head_dim=32)


@asynccontextmanager
async def running(
    of: ModelCard, *, slots: int = 8, prefix_bytes: int = 1 << 20
) -> AsyncIterator[HostedEngine]:
    options = EngineOptions(cache_dir=CACHE, slots=slots, threads=2, prefix_bytes=prefix_bytes)
    engine = HostedEngine(of, options)
    await engine.open()
    try:
        yield engine
    finally:
        await engine.close()


async def job(of: Engine, text: str, **sampling: object) -> Generation:
    values = {"max_tokens": TOKENS, "temperature": 1.0, "top_p": 0.95, "seed": 7, **sampling}
    asked = ChatInput(messages=(Message(role="user", content=text),))
    return Generation(prompt_ids=await of.prompt(asked), sampling=Sampling(**values))  # type: ignore[arg-type]


def cut(what: Generation, ids: tuple[int, ...]) -> Generation:
    return Generation(prompt_ids=what.prompt_ids, emitted_ids=ids, sampling=what.sampling)


async def ids_of(of: Engine, what: Generation) -> tuple[int, ...]:
    return tuple([i async for delta in of.run(what) for i in delta.token_ids])


@pytest.mark.parametrize("prefix_bytes", [0, 1 << 20])
async def test_real_answers_go_on_exactly_in_another_process_and_batch(prefix_bytes: int) -> None:
    """What `resume: exact` means, in float32: 16 answers, each broken off at three places."""
    async with running(card(SOURCE), prefix_bytes=prefix_bytes) as first:
        assert first.capabilities.resume == "exact"
        assert first.capabilities.tag.startswith("vllm/float32/")
        jobs = [
            await job(first, f"{question}, please", temperature=temperature, seed=seed)
            for seed, question in enumerate(QUESTIONS)
            for temperature in (0.0, 0.7, 1.0, 1.3)
        ]
        whole = await asyncio.gather(*(ids_of(first, what) for what in jobs))
        alone = [await ids_of(first, what) for what in jobs]
        assert alone == whole
        tag = first.capabilities.tag
    async with running(card(SOURCE), slots=3, prefix_bytes=prefix_bytes) as second:
        assert second.capabilities.tag == tag
        for at in (1, 9, 20):
            rest = await asyncio.gather(
                *(
                    ids_of(second, cut(what, said[:at]))
                    for what, said in zip(jobs, whole, strict=True)
                )
            )
            assert [said[:at] + more for said, more in zip(whole, rest, strict=True)] == whole


async def test_bfloat16_says_that_only_what_was_sent_stands() -> None:
    async with running(card(SOURCE, dtype="bfloat16")) as engine:
        assert engine.capabilities.resume == "prefix"
        assert await ids_of(engine, await job(engine, "the sea", max_tokens=4))


async def test_what_nobody_waits_for_leaves_no_memory_behind(wide: Path) -> None:
    async with running(card(str(wide))) as engine:
        runs = []
        for seed in range(8):
            run = engine.run(await job(engine, "the sea", seed=seed, max_tokens=400))
            await anext(run)
            runs.append(run)
        await until(lambda: engine.snapshot().memory_bytes)
        for run in runs:
            await run.aclose()
        async with asyncio.timeout(PATIENCE_S):
            while (now := engine.snapshot()).memory_bytes or now.running:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert now.steps
        assert now.prompt_tokens
        assert now.output_tokens
        assert now.resident_bytes > 1 << 20


async def test_prompts_of_one_scope_share_their_beginnings(wide: Path) -> None:
    long = "the fox and the dog and the sea and the quick brown fox " * 10
    async with running(card(str(wide))) as engine:
        said = []
        for scope in ("a", "a", "b"):
            what = await job(engine, long, max_tokens=4)
            scoped = Generation(prompt_ids=what.prompt_ids, sampling=what.sampling, scope=scope)
            said.append(await ids_of(engine, scoped))
        assert said == said[:1] * 3
        await until(lambda: engine.snapshot().reuse.misses >= 2)
        reuse = engine.snapshot().reuse
        assert reuse.hits == 1
        assert reuse.tokens >= 128


async def test_an_answer_that_is_no_number_fails_alone(wide: Path, tmp_path: Path) -> None:
    broken = tiny.make(tmp_path / "broken", head_dim=32)
    path = broken / "model.safetensors"
    tensors = load_file(path)
    tensors["model.embed_tokens.weight"][NAN] = float("nan")
    save_file(tensors, path, {"format": "pt"})
    sampling = Sampling(max_tokens=200, temperature=0.0, seed=3)
    good = Generation(prompt_ids=(5, 6, 7), sampling=sampling)
    async with running(card(str(broken))) as engine:
        alone = await ids_of(engine, good)
        assert NAN not in alone
        beside = engine.run(good)
        first = await anext(beside)
        for temperature in (0.0, 1.0):
            bad = Generation(
                prompt_ids=(5, NAN),
                sampling=Sampling(max_tokens=3, temperature=temperature, seed=0),
            )
            with pytest.raises(Internal, match="not a number"):
                await ids_of(engine, bad)
        assert (*first.token_ids, *[i async for delta in beside for i in delta.token_ids]) == alone
        for answer in await asyncio.gather(*(ids_of(engine, good) for _ in range(8))):
            assert answer == alone  # also in the memory of who failed
        assert not engine.snapshot().fault


@pytest.mark.parametrize("kind", ADAPTERS)
async def test_an_adapter_changes_it_as_its_merge_does(
    wide: Path, tmp_path: Path, kind: str
) -> None:
    merged, made = tmp_path / "merged", tmp_path / "adapter"
    adapters.make(wide, made, merged=merged, **ADAPTERS[kind])
    answers = []
    reference = create(tiny.card(merged), cache_dir=tmp_path)
    await reference.open()
    cards = (card(str(wide), adapter=str(made)), card(str(merged)), card(str(wide)))
    try:
        jobs = [
            await job(reference, question, seed=seed, temperature=temperature)
            for question in QUESTIONS
            for seed, temperature in ((0, 0.0), (1, 1.0))
        ]
        answers.append([await ids_of(reference, what) for what in jobs])
    finally:
        await reference.close()
    tags = set()
    for of in cards:
        async with running(of) as engine:
            tags.add(engine.capabilities.tag)
            answers.append(await asyncio.gather(*(ids_of(engine, what) for what in jobs)))
    peft, adapted, folded, plain = answers
    for said in (adapted, folded):  # two libraries, and another order of sums
        assert sum(a == b for a, b in zip(said, peft, strict=True)) > len(jobs) // 2
    assert not any(a == b for a, b in zip(adapted, plain, strict=True))
    assert len(tags) == 2  # with and without it


@pytest.mark.parametrize("way", ["no folder", "rank", "of another model"])
async def test_an_adapter_that_cannot_be_is_one_sentence(
    wide: Path, tmp_path: Path, way: str
) -> None:
    path = tmp_path / "nowhere"
    if way == "rank":
        path = adapters.make(wide, tmp_path / "adapter", r=600)
    elif way == "of another model":
        path = adapters.make(tiny.make(tmp_path / "other"), tmp_path / "adapter")
    with pytest.raises(ModelUnusable, match=r"does not exist|rank 600|another base") as caught:
        async with running(card(str(wide), adapter=str(path))):
            pass
    assert "\n" not in caught.value.message


async def test_a_model_it_cannot_compute_is_one_sentence(tmp_path: Path) -> None:
    narrow = tiny.make(tmp_path / "narrow")  # heads of 8, which its kernels don't know
    with pytest.raises(ModelUnusable, match="cannot be loaded") as caught:
        async with running(card(str(narrow))):
            pass
    assert "\n" not in caught.value.message


async def test_nothing_outlives_the_process_that_is_killed(wide: Path) -> None:
    before = shared()
    async with running(card(str(wide))) as engine:
        host = psutil.Process(engine.pid)
        assert not host.children(recursive=True)
        assert shared() <= before
        assert {c.laddr.ip for c in host.net_connections() if c.status == "LISTEN"} <= {"127.0.0.1"}
        run = engine.run(await job(engine, "the sea", max_tokens=450))
        await anext(run)
        group = [p.pid for p in psutil.process_iter() if _is_of(p, host.pid)]
        assert group == [host.pid]
        os.kill(engine.pid, signal.SIGKILL)
        with pytest.raises(PeerLost, match="signal 9"):
            [_ async for _ in run]
        assert "signal 9" in engine.snapshot().fault


def shared() -> set[Path]:
    """What vLLM leaves where everybody can."""
    return {*Path(tempfile.gettempdir()).glob("*vllm*"), *Path("/dev/shm").glob("*vllm*")}


def _is_of(process: psutil.Process, pid: int) -> bool:
    """Is it `pid`, or did `pid` start it, or does it name it?"""
    try:
        return pid in (process.pid, process.ppid()) or "EngineCore" in " ".join(process.cmdline())
    except psutil.Error:
        return False


BREAKS = """
import asyncio, pathlib, sys
from actors.contracts import ModelCard, Sampling
from actors.engines.generation import Generation
from actors.engines.factory import create
from actors.errors import WorkerLost
from supervision.errors import Unavailable

def broken():
    raise RuntimeError("a kernel failed")

async def main():
    card = ModelCard(name="it", version="1", engine="vllm", source=sys.argv[1], context=512)
    engine = create(card, cache_dir=pathlib.Path(sys.argv[2]), slots=2)
    await engine.open()
    job = Generation(prompt_ids=(5, 6), sampling=Sampling(max_tokens=400, temperature=0.0, seed=0))
    run = engine.run(job)
    await anext(run)
    engine._batcher._engine.engine_core.get_output = broken
    try:
        async for _ in run:
            pass
    except WorkerLost as error:
        assert "broke down (RuntimeError)" in error.message, error
    else:
        sys.exit("it went on")
    assert "broke down" in engine.snapshot().fault
    try:
        await anext(engine.run(job))
    except Unavailable:
        await engine.close()
        print("it said so")

asyncio.run(main())
"""


async def test_a_core_that_breaks_down_is_a_fault(wide: Path, tmp_path: Path) -> None:
    """In vLLM's own environment, where its parts can be reached."""
    done = await asyncio.to_thread(
        subprocess.run,
        [vllm_home.python("it@1"), "-c", BREAKS, str(wide), str(tmp_path)],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("it said so")
