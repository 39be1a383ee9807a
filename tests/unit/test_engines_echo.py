"""The echo engine: deterministic, continued exactly, bounded, one turn of the loop a token."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from actors.contracts import ChatInput, Finish, Message, ModelCard, Sampling, TextInput
from actors.engines.engine import Engine
from actors.engines.factory import create
from actors.engines.generation import Delta, Generation
from actors.errors import ContextExceeded
from supervision.errors import BadRequest, Draining, Overloaded


def engine(*, slots: int = 4, queue: int = 2, context: int = 1000) -> Engine:
    card = ModelCard(name="echo", version="1", engine="echo", context=context)
    return create(card, slots=slots, queue=queue, cache_dir=Path("unused"))


async def job(
    of: Engine, text: str, emitted: tuple[int, ...] = (), **sampling: object
) -> Generation:
    asked = ChatInput(
        messages=(
            Message(role="system", content="not this"),
            Message(role="user", content=text),
        )
    )
    return Generation(
        prompt_ids=await of.prompt(asked),
        emitted_ids=emitted,
        sampling=Sampling(**{"seed": 0, **sampling}),  # type: ignore[arg-type]
    )


async def all_of(of: Engine, what: Generation) -> list[Delta]:
    return [delta async for delta in of.run(what)]


def joined(deltas: list[Delta]) -> tuple[str, list[int], Finish | None]:
    assert all(delta.finish is None for delta in deltas[:-1])
    ids = [token for delta in deltas for token in delta.token_ids]
    return "".join(delta.text for delta in deltas), ids, deltas[-1].finish


@pytest.mark.parametrize("text", ["one two three", "naïve 中文 😀 x", " padded  with\nspace "])
async def test_it_says_the_words_over_and_over(text: str) -> None:
    echo = engine()
    said, ids, finish = joined(await all_of(echo, await job(echo, text, max_tokens=7)))
    words = text.split()
    assert said == " ".join(words[i % len(words)] for i in range(7))
    assert ids == [i % len(words) for i in range(7)]
    assert finish is Finish.LENGTH
    assert echo.snapshot().output_tokens == 7


@pytest.mark.parametrize("stop", [(), ("two",), ("e tw",), ("three one t",)])
async def test_a_continuation_equals_the_undisturbed_run(stop: tuple[str, ...]) -> None:
    echo = engine()
    whole, ids, finish = joined(
        await all_of(echo, await job(echo, "one two three", max_tokens=9, stop=stop))
    )
    first = await all_of(echo, await job(echo, "one two three", max_tokens=9, stop=stop))
    for k in range(len(ids) + 1):
        # the text that belongs to the first k tokens, from a run that yields them one by one
        slow = await all_of(echo, await job(echo, "one two three delay=0", max_tokens=9, stop=stop))
        assert joined(slow) == (whole, ids, finish)
        rest = await all_of(
            echo, await job(echo, "one two three", tuple(ids[:k]), max_tokens=9, stop=stop)
        )
        text, more, ended = joined(rest)
        assert ids[:k] + more == ids
        assert whole.endswith(text)
        assert ended == finish
    assert joined(first) == (whole, ids, finish)


async def test_stop_strings_are_not_said() -> None:
    echo = engine()
    said, ids, finish = joined(
        await all_of(echo, await job(echo, "alpha beta gamma", max_tokens=50, stop=("ta ga",)))
    )
    assert (said, finish) == ("alpha be", Finish.STOP)
    assert ids == [0, 1, 2]


async def test_a_delay_is_waited_between_tokens_and_not_said() -> None:
    echo = engine()
    loop = asyncio.get_running_loop()
    began = loop.time()
    deltas = await all_of(echo, await job(echo, "a delay=20 b", max_tokens=4))
    assert loop.time() - began == pytest.approx(0.06)
    assert [delta.text for delta in deltas] == ["a", " b", " a", " b"]
    assert joined(await all_of(echo, await job(echo, "delay=1", max_tokens=2)))[0] == "echo echo"
    assert joined(await all_of(echo, await job(echo, "delay=x", max_tokens=1)))[0] == "delay=x"


async def test_each_token_takes_a_turn_of_the_loop() -> None:
    echo = engine()
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    counting = asyncio.create_task(count())
    await asyncio.sleep(0)  # it stands at its own sleep now
    await all_of(echo, await job(echo, "a b", max_tokens=64))
    counting.cancel()
    assert turns >= 63


async def test_closing_frees_the_slot_and_a_full_engine_refuses() -> None:
    echo = engine(slots=1, queue=1)
    first = echo.run(await job(echo, "a delay=60000", max_tokens=900))
    assert (await anext(first)).text == "a"
    waiting = asyncio.create_task(all_of(echo, await job(echo, "b", max_tokens=1)))
    await asyncio.sleep(0)
    assert (echo.snapshot().running, echo.snapshot().queued) == (1, 1)
    with pytest.raises(Overloaded) as caught:
        await all_of(echo, await job(echo, "c", max_tokens=1))
    assert caught.value.retry_after_s
    await first.aclose()
    assert joined(await waiting)[0] == "b"
    assert (echo.snapshot().running, echo.snapshot().queued) == (0, 0)


async def test_a_cancelled_wait_leaves_no_trace() -> None:
    echo = engine(slots=1, queue=1)
    first = echo.run(await job(echo, "a delay=60000", max_tokens=900))
    await anext(first)
    waiting = asyncio.create_task(all_of(echo, await job(echo, "b", max_tokens=1)))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert echo.snapshot().queued == 0
    await first.aclose()
    assert joined(await all_of(echo, await job(echo, "c", max_tokens=1)))[0] == "c"


async def test_bad_input_is_told() -> None:
    echo = engine(context=20)
    with pytest.raises(BadRequest, match="no word"):
        await echo.prompt(TextInput(prompt="  \n"))
    with pytest.raises(BadRequest, match="messages is empty"):
        await echo.prompt(ChatInput(messages=()))
    with pytest.raises(BadRequest, match="role"):
        await echo.prompt(ChatInput(messages=(Message(role="boss", content="x"),)))
    with pytest.raises(BadRequest) as caught:
        echo.check(1, Sampling(max_tokens=1, temperature=9.0))
    assert caught.value.param == "temperature"
    with pytest.raises(ContextExceeded):
        echo.check(15, Sampling(max_tokens=6))
    echo.check(15, Sampling(max_tokens=5))
    with pytest.raises(BadRequest, match="echo engine"):
        await all_of(echo, Generation(prompt_ids=(2**40,), sampling=Sampling(max_tokens=1, seed=0)))
    await echo.close()
    with pytest.raises(Draining):
        await all_of(echo, await job(echo, "x", max_tokens=1))
