"""The whole transformers engine on a tiny random Llama: thread, loop, text, faults."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from actors.contracts import ChatInput, Finish, Message, ModelCard, Sampling, TextInput
from actors.engines.engine import Engine
from actors.engines.factory import create
from actors.engines.generation import Delta, Generation
from actors.engines.transformer import TransformersEngine
from actors.errors import ContextExceeded, ModelUnusable, WorkerLost
from supervision.errors import BadRequest, Draining, Overloaded, Unavailable
from tests.support import tiny
from tests.support.waiting import until


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make(tmp_path_factory.mktemp("models") / "tiny")


@pytest_asyncio.fixture
async def engine(folder: Path, tmp_path: Path) -> AsyncIterator[Engine]:
    made = create(tiny.card(folder), slots=4, queue=12, threads=1, cache_dir=tmp_path)
    await made.open()
    yield made
    await made.close()


def chat(*contents: str) -> ChatInput:
    return ChatInput(messages=tuple(Message(role="user", content=text) for text in contents))


async def job(of: Engine, text: str, **sampling: object) -> Generation:
    asked = {"max_tokens": 30, "temperature": 1.0, "seed": len(text), **sampling}
    return Generation(prompt_ids=await of.prompt(chat(text)), sampling=Sampling(**asked))  # type: ignore[arg-type]


async def answer(of: Engine, what: Generation) -> tuple[str, list[int], Finish | None]:
    text, ids, finish = "", [], None
    async for delta in of.run(what):
        assert finish is None
        text += delta.text
        ids += delta.token_ids
        finish = delta.finish
    return text, ids, finish


async def rest(run: AsyncIterator[Delta]) -> list[Delta]:
    return [delta async for delta in run]


async def test_many_at_once_answer_as_each_alone(engine: Engine, folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    asked = [await job(engine, "the fox " * n + "?", temperature=n % 2) for n in range(16)]
    alone = [await answer(engine, what) for what in asked]
    together = await asyncio.gather(*(answer(engine, what) for what in asked))
    assert together == alone
    assert len({text for text, _, _ in alone}) > 10
    for text, ids, finish in alone:
        assert text == tokenizer.decode(ids, skip_special_tokens=True)
        ended = ids[-1] == tokenizer.eos_token_id
        assert finish is (Finish.STOP if ended else Finish.LENGTH)
        assert ended or len(ids) == 30
    await until(lambda: engine.snapshot().memory_bytes == 0)
    seen = engine.snapshot()
    assert (seen.running, seen.queued, seen.fault) == (0, 0, "")
    assert seen.output_tokens == 2 * sum(len(ids) for _, ids, _ in alone)
    assert seen.prompt_tokens == 2 * sum(len(what.prompt_ids) for what in asked)
    assert seen.steps < seen.output_tokens  # they did share steps


async def test_prompts_are_templated_and_tokenized(engine: Engine, folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = await engine.prompt(chat("the dog 中文"))
    assert tokenizer.decode(ids) == ("<|start|>user\nthe dog 中文<|end|>\n<|start|>assistant\n")
    assert tokenizer.decode(await engine.prompt(TextInput(prompt="the sea"))) == "the sea"
    assert engine.capabilities.chat
    assert engine.capabilities.resume == "exact"
    assert engine.capabilities.context == 512
    assert "float32" in engine.capabilities.tag


async def test_a_stop_string_ends_the_answer_and_is_not_said(engine: Engine) -> None:
    whole, ids, _ = await answer(engine, await job(engine, "tell me", max_tokens=60))
    at = len(whole) // 2
    stop = whole[at : at + 4]
    text, fewer, finish = await answer(
        engine, await job(engine, "tell me", max_tokens=60, stop=(stop,))
    )
    assert text == whole[: whole.index(stop)]
    assert finish is Finish.STOP
    assert fewer == ids[: len(fewer)]
    assert len(fewer) < len(ids)


async def test_closing_a_run_stops_its_computation(engine: Engine) -> None:
    # nothing ends this one but its 400 tokens: the end of turn is as unlikely as any token
    for number in range(1, 6):
        run = engine.run(await job(engine, "long", max_tokens=400, seed=1))
        first = await anext(run)
        assert len(first.token_ids) >= 1
        await run.aclose()
        await until(lambda: engine.snapshot().running == 0)
        before = engine.snapshot()
        if before.output_tokens < 400 * number:
            break
    else:
        pytest.fail("every one of them was over before it was closed")
    await answer(engine, await job(engine, "a", max_tokens=1))  # the engine lives on
    after = engine.snapshot()
    assert after.steps - before.steps <= 2
    assert after.output_tokens - before.output_tokens == 1


async def test_a_full_engine_refuses_and_recovers(engine: Engine) -> None:
    runs = [engine.run(await job(engine, f"n{n}", max_tokens=450)) for n in range(16)]
    firsts = [asyncio.create_task(anext(run)) for run in runs]
    await until(lambda: engine.snapshot().running + engine.snapshot().queued == 16)
    with pytest.raises(Overloaded) as caught:
        await answer(engine, await job(engine, "one more"))
    assert caught.value.retry_after_s
    for task in firsts:
        task.cancel()
    await asyncio.gather(*firsts, return_exceptions=True)
    for run in runs:
        await run.aclose()
    await until(lambda: engine.snapshot().running + engine.snapshot().queued == 0)
    _, ids, _ = await answer(engine, await job(engine, "again", max_tokens=2))
    assert ids


async def test_a_slow_reader_gets_all_of_it_in_fewer_pieces(engine: Engine) -> None:
    whole = await answer(engine, await job(engine, "slow", max_tokens=50))
    run = engine.run(await job(engine, "slow", max_tokens=50))
    deltas = [await anext(run)]
    await until(lambda: engine.snapshot().running == 0)
    deltas += [delta async for delta in run]
    assert len(deltas) <= 3
    assert "".join(delta.text for delta in deltas) == whole[0]
    assert [token for delta in deltas for token in delta.token_ids] == whole[1]


async def test_a_finished_continuation_says_only_that(engine: Engine) -> None:
    what = await job(engine, "done", max_tokens=5)
    _, ids, finish = await answer(engine, what)
    again = Generation(prompt_ids=what.prompt_ids, emitted_ids=tuple(ids), sampling=what.sampling)
    assert [delta async for delta in engine.run(again)] == [Delta((), "", finish)]


async def test_bad_input_is_told_before_the_batch(engine: Engine) -> None:
    with pytest.raises(BadRequest, match="messages is empty"):
        await engine.prompt(ChatInput(messages=()))
    with pytest.raises(BadRequest, match="prompt is empty"):
        await engine.prompt(TextInput(prompt=""))
    with pytest.raises(ContextExceeded, match="far longer"):
        await engine.prompt(chat("fox jumps " * 100_000))
    with pytest.raises(ContextExceeded, match="512 tokens"):
        engine.check(500, Sampling(max_tokens=13))
    for what in (
        Generation(prompt_ids=(10**6,), sampling=Sampling(seed=0, max_tokens=3)),
        Generation(prompt_ids=(-1,), sampling=Sampling(seed=0, max_tokens=3)),
        Generation(prompt_ids=(), sampling=Sampling(seed=0, max_tokens=3)),
        Generation(prompt_ids=(5,) * 510, sampling=Sampling(seed=0, max_tokens=3)),
        Generation(prompt_ids=(5,), sampling=Sampling(seed=0, max_tokens=3, top_p=0.0)),
    ):
        with pytest.raises(BadRequest):
            await answer(engine, what)
    assert engine.snapshot().steps == 0


async def test_closing_the_engine_refuses_who_still_runs(folder: Path, tmp_path: Path) -> None:
    engine = create(tiny.card(folder), slots=2, cache_dir=tmp_path)
    with pytest.raises(Draining):
        await answer(engine, Generation(prompt_ids=(5,), sampling=Sampling(seed=0, max_tokens=3)))
    await engine.open()
    run = engine.run(await job(engine, "long", max_tokens=450))
    await anext(run)
    waiting = asyncio.create_task(answer(engine, await job(engine, "other", max_tokens=450)))
    await asyncio.sleep(0)
    await engine.close()
    with pytest.raises(Draining):
        await waiting
    with pytest.raises(Draining):
        await rest(run)
    await engine.close()
    with pytest.raises(Draining):
        await answer(engine, await job(engine, "late"))


async def test_bfloat16_is_opted_into_and_only_its_prefix_stands(
    folder: Path, tmp_path: Path
) -> None:
    engine = create(tiny.card(folder, dtype="bfloat16"), cache_dir=tmp_path)
    await engine.open()
    assert engine.capabilities.resume == "prefix"
    _, ids, _ = await answer(engine, await job(engine, "hello", max_tokens=8))
    assert ids
    await engine.close()


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        ({"model_type": "no-such-model", "architectures": []}, "cannot be loaded"),
        ({"model_type": "mistral", "sliding_window": 16}, "window is not supported"),
        ({"num_hidden_layers": 3}, "lacks .* weights"),
        ({"hidden_size": 64}, "cannot be loaded"),
    ],
)
async def test_a_model_that_cannot_be_run_is_one_sentence(
    folder: Path, tmp_path: Path, harm: dict[str, object], told: str
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    config = json.loads((broken / "config.json").read_text())
    config.update(harm)
    (broken / "config.json").write_text(json.dumps(config))
    engine = create(tiny.card(broken), cache_dir=tmp_path)
    with pytest.raises(ModelUnusable, match=told) as caught:
        await engine.open()
    assert "\n" not in caught.value.message


async def test_a_wrong_dtype_and_a_missing_file_are_told(folder: Path, tmp_path: Path) -> None:
    engine = create(tiny.card(folder, dtype="int3"), cache_dir=tmp_path)
    with pytest.raises(ModelUnusable, match="float32 or bfloat16"):
        await engine.open()
    (tmp_path / "empty").mkdir()
    card = ModelCard(name="m", version="1", engine="transformers", source=str(tmp_path / "empty"))
    with pytest.raises(ModelUnusable, match=r"no config\.json"):
        await create(card, cache_dir=tmp_path).open()


async def test_a_broken_engine_says_so_and_takes_no_more(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(engine, TransformersEngine)
    run = engine.run(await job(engine, "long", max_tokens=450))
    await anext(run)

    def out_of_memory(slots: int, length: int) -> None:
        raise MemoryError

    assert engine._batcher is not None
    monkeypatch.setattr(engine._batcher._cache, "reserve", out_of_memory)
    with pytest.raises(WorkerLost, match=r"broke down \(MemoryError\)"):
        await rest(run)
    assert "broke down" in engine.snapshot().fault
    with pytest.raises(Unavailable, match="broke down"):
        await answer(engine, await job(engine, "next"))
