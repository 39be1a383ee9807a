"""Prefix reuse in the batcher, on a tiny random Llama: the very tokens as without it, whoever
joins, leaves and lends; nobody borrows from another scope; what is kept stays within its bound."""

from __future__ import annotations

from collections import abc
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import event, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from actors.contracts import Sampling
from actors.engines.batcher import Batcher
from actors.engines.engine import EngineOptions
from actors.engines.generation import Delta, Generation
from actors.engines.llama_model import LlamaModel
from actors.engines.model import SlotModel, load
from actors.engines.sequence import Sequence
from actors.engines.span import Span
from tests.support import tiny, tiny_gguf
from tests.support.properties import examples

TOKENS = 12
SLOTS = 6
PLENTY = 1 << 30
SYSTEMS = [
    tuple(Random(n).randrange(2, 300) for _ in range(size)) for n, size in enumerate((90, 40))
]

Answers = dict[tuple[Any, ...], tuple[int, ...]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> abc.Iterator[Path]:
    before = torch.get_num_threads()
    yield tmp_path_factory.mktemp("models")
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def gguf(folder: Path) -> abc.Iterator[LlamaModel]:
    model = LlamaModel(
        tiny_gguf.make(folder), slots=SLOTS, context=512, threads=1, batch_tokens=600
    )
    yield model
    model.close()


@pytest.fixture(scope="module")
def model(folder: Path, gguf: LlamaModel) -> SlotModel:
    path = folder / "tiny"
    return load(path, tiny.card(path), slots=SLOTS, threads=1)


@pytest.fixture(scope="module")
def whole() -> Answers:
    """What was computed without reuse, alone, for all tests."""
    return {}


def job(prompt: tuple[int, ...], *, scope: str = "", seed: int = 0, **sampling: Any) -> Generation:
    values = {"max_tokens": TOKENS, "temperature": 0.0, "seed": seed, **sampling}
    return Generation(prompt_ids=prompt, sampling=Sampling(**values), scope=scope)


def table(model: SlotModel | LlamaModel) -> tuple[bytes, ...]:
    return (b"x",) * model.vocabulary


def answer(batcher: Batcher, what: Generation, model: SlotModel | LlamaModel) -> tuple[int, ...]:
    """Computed to the end, with nobody beside it."""
    sequence = Sequence(what, table(model))
    batcher.add(sequence)
    said: list[int] = []
    while batcher.busy:
        for who, item in batcher.step().said:
            assert isinstance(item, Delta)
            assert who is sequence
            said += item.token_ids
    return tuple(said)


def alone(model: SlotModel, what: Generation, known: Answers) -> tuple[int, ...]:
    """Computed as a whole; nothing that was kept outlives it."""
    key = (what.prompt_ids, what.sampling)
    if key not in known:
        known[key] = answer(Batcher(model, slots=1, prefill_tokens=4096), what, model)
    return known[key]


def conversation(random: Random, known: Answers, model: SlotModel) -> tuple[int, ...]:
    """A system prompt, then turns: what was asked, and what was answered, or how that began."""
    said = random.choice(SYSTEMS)[: random.choice((1, 15, 16, 17, 40, 90, 90))]
    for turn in range(random.randrange(3)):
        said += tuple(Random(turn * 7 + random.randrange(2)).randrange(2, 300) for _ in range(9))
        said += alone(model, job(said), known)[: random.choice((3, TOKENS))]
    return (*said, random.randrange(2, 6))


@settings(max_examples=examples(25))
@given(
    seed=st.integers(0, 2**32),
    slots=st.integers(1, SLOTS),
    prefill_tokens=st.sampled_from((5, 33, 256)),
    budget=st.sampled_from((3_000, 40_000, PLENTY)),
    scopes=st.integers(1, 2),
)
def test_whatever_is_reused_the_tokens_are_the_same(
    model: SlotModel,
    whole: Answers,
    seed: int,
    slots: int,
    prefill_tokens: int,
    budget: int,
    scopes: int,
) -> None:
    random = Random(seed)
    jobs = [
        job(
            conversation(random, whole, model),
            scope=str(random.randrange(scopes)),
            seed=random.randrange(3),
            temperature=random.choice((0.0, 1.0)),
        )
        for _ in range(18)
    ]
    batcher = Batcher(model, slots=slots, prefill_tokens=prefill_tokens, prefix_bytes=budget)
    said: dict[Sequence, list[int]] = {}
    asked: dict[Sequence, Generation] = {}
    cancelled: set[Sequence] = set()
    while jobs or batcher.busy:
        for _ in range(random.choice((0, 0, 1, 4))):
            if jobs:
                sequence = Sequence(what := jobs.pop(), table(model))
                said[sequence], asked[sequence] = [], what
                batcher.add(sequence)
        if said and random.random() < 0.05:
            batcher.cancel(victim := random.choice(list(said)))
            cancelled.add(victim)
        for sequence, item in batcher.step().said:
            assert isinstance(item, Delta)
            said[sequence] += item.token_ids
        assert batcher.reuse.held_bytes <= budget
    reuse = batcher.reuse
    assert batcher.memory_bytes == 0
    assert reuse.hits + reuse.misses <= len(asked)
    assert reuse.tokens >= reuse.hits * model.cache.worth
    event(f"{reuse.tokens // 100} hundred tokens reused")
    for sequence, what in asked.items():
        expected = alone(model, what, whole)
        assert (
            tuple(said[sequence])
            == expected[: len(said[sequence]) if sequence in cancelled else None]
        )


def test_only_what_is_new_is_computed(model: SlotModel) -> None:
    batcher = Batcher(model, slots=2, prefill_tokens=512, prefix_bytes=PLENTY)
    first = job(SYSTEMS[0])
    said = answer(batcher, first, model)
    assert (batcher.reuse.tokens, batcher.reuse.hits, batcher.reuse.misses) == (0, 0, 1)
    assert answer(batcher, first, model) == said
    assert batcher.reuse.tokens == len(first.prompt_ids) - 1  # one is computed, for its logits
    # the next turn: all but the last token of the answer, which was never taken in
    answer(batcher, job((*first.prompt_ids, *said, 5, 6)), model)
    assert batcher.reuse.tokens == 2 * len(first.prompt_ids) + len(said) - 2
    # broken off and continued here
    again = Generation(prompt_ids=first.prompt_ids, emitted_ids=said[:4], sampling=first.sampling)
    assert answer(batcher, again, model) == said[4:]
    assert (batcher.reuse.hits, batcher.reuse.misses) == (3, 1)
    assert batcher.prompt_tokens == 4 * len(first.prompt_ids) + len(said) + 2 + 4


def test_who_runs_and_who_is_being_taken_in_lend_as_far_as_they_are(model: SlotModel) -> None:
    batcher = Batcher(model, slots=4, prefill_tokens=40, prefix_bytes=PLENTY)
    batcher.add(Sequence(job((*SYSTEMS[0], 3)), table(model)))
    batcher.step()
    batcher.add(Sequence(job((*SYSTEMS[0], 4)), table(model)))
    batcher.add(Sequence(job((*SYSTEMS[0], 5)), table(model)))
    batcher.step()
    assert batcher.reuse.tokens == 0  # nobody could be admitted
    batcher.step()  # the first is through with 11 tokens, the second has 80 of it and takes in 11
    assert batcher.reuse.tokens == 80 + 80
    assert batcher.running == 3
    while batcher.busy:
        batcher.step()
    assert (batcher.reuse.hits, batcher.reuse.misses) == (2, 1)


def test_a_prompt_half_taken_in_goes_on_with_what_somebody_else_has_by_now(
    model: SlotModel, whole: Answers
) -> None:
    batcher = Batcher(model, slots=4, prefill_tokens=60, prefix_bytes=PLENTY)
    sequences = [Sequence(job((*SYSTEMS[0], last)), table(model)) for last in (3, 4)]
    for sequence in sequences:
        batcher.add(sequence)
    said: dict[Sequence, list[int]] = {sequence: [] for sequence in sequences}
    lent = []
    while batcher.busy:
        for sequence, item in batcher.step().said:
            assert isinstance(item, Delta)
            said[sequence] += item.token_ids
        lent.append(batcher.reuse.tokens)
    # 60; 31 and, from 60 on, 29 of the second; which has all but one by then
    assert lent[:3] == [0, 60, 60]
    for sequence, last in zip(sequences, (3, 4), strict=True):
        assert tuple(said[sequence]) == alone(model, job((*SYSTEMS[0], last)), whole)


@pytest.mark.parametrize("kind", ["model", "gguf"])
def test_nobody_borrows_from_another_scope(kind: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(kind)
    batcher = Batcher(model, slots=4, prefill_tokens=512, prefix_bytes=PLENTY)
    batcher.add(Sequence(job(SYSTEMS[0], scope="ann"), table(model)))
    batcher.step()
    batcher.add(Sequence(job(SYSTEMS[0], scope="bob"), table(model)))  # while ann's runs
    while batcher.busy:
        batcher.step()
    answer(batcher, job(SYSTEMS[0], scope="eve"), model)  # and when it is kept
    assert batcher.reuse.tokens == batcher.reuse.hits == 0
    for scope in ("ann", "bob", "eve"):
        answer(batcher, job(SYSTEMS[0], scope=scope), model)
    assert batcher.reuse.hits == 3


class Broken:
    """A model that spoils all of a slot, as a bug in a kernel would, at one token."""

    def __init__(self, model: SlotModel, token: int) -> None:
        self._model = model
        self._token = token
        self.cache = model.cache
        self.context = model.context
        self.ends = model.ends

    def forward(
        self, ids: abc.Sequence[int], decode: abc.Sequence[Span], prefill: abc.Sequence[Span]
    ) -> NDArray[np.float32]:
        logits = self._model.forward(ids, decode, prefill)
        at = 0
        for sequence, span in enumerate((*decode, *prefill)):
            if self._token in ids[at : at + span.count]:
                logits[sequence] = float("nan")
                self.cache._keys[0][span.slot] = float("nan")
            at += span.count
        return logits


@pytest.mark.parametrize("prefill_tokens", [50, 512])
def test_nobody_borrows_what_are_no_numbers(
    model: SlotModel, whole: Answers, prefill_tokens: int
) -> None:
    fatal = 301
    fine = [job((*SYSTEMS[0], last)) for last in (3, 4)]
    expected = [alone(model, what, whole) for what in fine]
    bad = job((*SYSTEMS[0][:45], fatal, *SYSTEMS[0]))
    batcher = Batcher(
        Broken(model, fatal), slots=4, prefill_tokens=prefill_tokens, prefix_bytes=PLENTY
    )
    said: dict[Sequence, list[int]] = {}
    failed = []
    for what in (bad, fine[0], bad, fine[1]):
        batcher.add(sequence := Sequence(what, table(model)))
        said[sequence] = []
    while batcher.busy:
        for sequence, item in batcher.step().said:
            if isinstance(item, Delta):
                said[sequence] += item.token_ids
            else:
                failed.append(sequence)
    sequences = list(said)
    assert failed == [sequences[0], sequences[2]]
    assert [tuple(said[sequences[n]]) for n in (1, 3)] == expected


def test_what_is_kept_has_a_bound_and_the_rest_is_given_back(model: SlotModel) -> None:
    token = 2 * 2 * 2 * 8 * 4  # keys and values, layers, heads, dim, bytes
    batcher = Batcher(model, slots=2, prefill_tokens=512, prefix_bytes=50 * token + 1)
    for last in range(2, 9):
        answer(batcher, job((*SYSTEMS[1], last)), model)
        assert 40 * token < batcher.reuse.held_bytes <= 50 * token
        assert batcher.memory_bytes == 0
    assert batcher.reuse.evicted > 0
    assert batcher.reuse.hits == 6
    assert EngineOptions(cache_dir=Path(), prefix_bytes=0).prefix_bytes == 0
    for bad in (-1, 1 << 60):
        with pytest.raises(ValueError, match="prefix_bytes"):
            EngineOptions(cache_dir=Path(), prefix_bytes=bad)
    off = Batcher(model, slots=2, prefill_tokens=512, prefix_bytes=0)
    for _ in range(2):
        answer(off, job(SYSTEMS[1]), model)
    assert (off.reuse.tokens, off.reuse.held_bytes, off.reuse.hits) == (0, 0, 0)


def test_a_cancelled_answer_gives_its_slot_back_and_its_beginning_is_kept(model: SlotModel) -> None:
    batcher = Batcher(model, slots=2, prefill_tokens=30, prefix_bytes=PLENTY)
    batcher.add(sequence := Sequence(job(SYSTEMS[0]), table(model)))
    batcher.step()
    batcher.cancel(sequence)  # half taken in
    while batcher.busy:
        batcher.step()
    assert batcher.memory_bytes == 0
    answer(batcher, job(SYSTEMS[0]), model)
    assert batcher.reuse.tokens == 30


def test_where_there_is_no_memory_to_keep_anything_answers_go_on(
    model: SlotModel, whole: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **kwargs: object) -> torch.Tensor:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    batcher = Batcher(model, slots=2, prefill_tokens=512, prefix_bytes=PLENTY)
    answer(batcher, job(SYSTEMS[1]), model)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "empty", full)
        said = answer(batcher, job(SYSTEMS[0]), model)
    assert batcher.reuse.held_bytes == 0
    answer(batcher, job(SYSTEMS[1]), model)
    assert batcher.reuse.held_bytes > 0
    assert said == alone(model, job(SYSTEMS[0]), whole)


# ---- llama.cpp


def test_llama_cpp_goes_on_from_a_copy_as_from_the_original(gguf: LlamaModel) -> None:
    assert gguf.cache.lends
    plain = Batcher(gguf, slots=SLOTS, prefill_tokens=512)
    prompts = [(*system[:cut], last) for system in SYSTEMS for cut in (30, 40) for last in (3, 4)]
    without = [answer(plain, job(prompt), gguf) for prompt in prompts]
    batcher = Batcher(gguf, slots=SLOTS, prefill_tokens=512, prefix_bytes=PLENTY)
    sequences = {Sequence(job(prompt), table(gguf)): n for n, prompt in enumerate(prompts * 3)}
    said: list[list[int]] = [[] for _ in sequences]
    left = list(sequences)
    while left or batcher.busy:
        for sequence in left[:2]:
            batcher.add(sequence)
        del left[:2]
        for sequence, item in batcher.step().said:
            assert isinstance(item, Delta)
            said[sequences[sequence]] += item.token_ids
    # its numbers depend a little on what else is in a pass
    same = sum(tuple(ids) == without[n % len(prompts)] for n, ids in enumerate(said))
    assert same > 0.8 * len(said)
    assert batcher.reuse.hits > 0.8 * len(said)
    assert batcher.memory_bytes == 0
    assert batcher.reuse.held_bytes > 0


@settings(max_examples=examples(20))
@given(seed=st.integers(0, 2**32), slots=st.integers(1, SLOTS), room=st.sampled_from((20, 60, 900)))
def test_llama_cpp_keeps_no_more_than_it_may_and_frees_the_rest(
    gguf: LlamaModel, seed: int, slots: int, room: int
) -> None:
    random = Random(seed)
    budget = room * gguf.cache.token_bytes
    batcher = Batcher(gguf, slots=slots, prefill_tokens=50, prefix_bytes=budget)
    waiting = [
        Sequence(
            job(
                (*random.choice(SYSTEMS)[: random.choice((9, 17, 40))], random.randrange(2, 5)),
                scope=random.choice("ab"),
                max_tokens=random.randrange(1, 8),
            ),
            table(gguf),
        )
        for _ in range(20)
    ]
    sequences = list(waiting)
    while waiting or batcher.busy:
        for _ in range(random.randrange(3)):
            if waiting:
                batcher.add(waiting.pop())
        if random.random() < 0.1:
            batcher.cancel(random.choice(sequences))
        for _, item in batcher.step().said:
            assert isinstance(item, Delta)
        assert batcher.reuse.held_bytes <= budget
    assert all(sequence.gone for sequence in sequences)
    assert batcher.memory_bytes == 0
