"""What is computed on a GPU is made there. No machine of the tests has one, so what a torch engine
makes without saying where is sent to a device that can't compute: then nothing comes out."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from actors.contracts import Sampling
from actors.engines import host_process
from actors.engines.batcher import Batcher
from actors.engines.device import described, device, reserved_bytes
from actors.engines.engine import EngineOptions
from actors.engines.factory import create
from actors.engines.generation import Generation
from actors.engines.model import load
from actors.engines.sequence import Sequence
from actors.engines.slot_cache import SlotCache, attention
from actors.errors import ModelUnusable
from tests.support import tiny
from tests.support.waiting import PATIENCE_S


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def nowhere() -> Iterator[None]:
    """Whatever doesn't say where it is to be is nowhere."""
    with torch.device("meta"):
        yield


def answers(folder: Path) -> list[list[int]]:
    """Of prompts that join one after the other, share their beginning, and leave holes."""
    with torch.device("cpu"):  # as the files are read to
        model = load(folder, tiny.card(folder), slots=3, threads=1)
    batcher = Batcher(model, slots=3, prefill_tokens=8, prefix_bytes=1 << 20)
    table = tuple(b"x" for _ in range(model.vocabulary))
    sequences = [
        Sequence(
            Generation(
                prompt_ids=(*range(40, 60), 60 + n, *range(3)),
                sampling=Sampling(max_tokens=4 + 3 * n, temperature=0.5 * n, seed=n),
            ),
            table,
        )
        for n in range(5)
    ]
    for sequence in sequences:
        batcher.add(sequence)
        batcher.step()
    while batcher.busy:
        for sequence, said in batcher.step().said:
            assert not isinstance(said, Exception), (sequence, said)
    return [sequence.tokens for sequence in sequences]


def test_nothing_is_made_without_saying_where(folder: Path, request: pytest.FixtureRequest) -> None:
    expected = answers(folder)
    request.getfixturevalue("nowhere")
    assert torch.zeros(1).device.type == "meta"
    assert answers(folder) == expected


def environ(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


def test_without_a_gpu_it_is_the_processor(folder: Path) -> None:
    if torch.cuda.is_available():
        assert device().type == "cuda"
        assert described(device())
    else:
        assert device().type == "cpu"
        assert described(device()) == torch.backends.cpu.get_cpu_capability()
        assert reserved_bytes() == 0


async def test_an_engine_s_process_sees_the_gpus_of_its_worker(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    for said, seen in (("all", "7"), ("none", ""), ("0,2", "0,2")):
        process, ours = host_process.start(tiny.card(folder), said)
        try:
            wanted = f"CUDA_VISIBLE_DEVICES={seen}".encode()
            async with asyncio.timeout(PATIENCE_S):
                while b"PATH=" not in (found := environ(process.pid)):  # noqa: ASYNC110 - exec(2)
                    await asyncio.sleep(0.01)
            assert wanted in found.split(b"\0")
        finally:
            ours.close()
            process.kill()
            await asyncio.to_thread(process.wait)


def test_the_engine_is_exact_on_the_processor_alone(folder: Path, tmp_path: Path) -> None:
    engine = create(tiny.card(folder), slots=1, cache_dir=tmp_path)
    assert EngineOptions(cache_dir=tmp_path).threads == 1

    async def opened() -> tuple[str, str]:
        await engine.open()
        try:
            return engine.capabilities.resume, engine.capabilities.tag
        finally:
            await engine.close()

    resume, tag = asyncio.run(opened())
    assert (resume == "exact") == (device().type == "cpu")
    assert described(device()) in tag


@pytest.mark.parametrize("more", [{"softcap": 30.0}, {"s_aux": torch.zeros(1)}])
def test_attention_that_is_more_than_softmax_is_refused_by_name(more: dict[str, object]) -> None:
    nothing = torch.zeros(1, 1, 1, 1)
    slots = SlotCache(
        layers=1, heads=1, head_dim=1, slots=1, context=1, dtype=torch.float32, device="cpu"
    )
    with pytest.raises(ModelUnusable, match="softmax"):
        attention(None, nothing, nothing, nothing, None, tether_slots=slots, **more)
