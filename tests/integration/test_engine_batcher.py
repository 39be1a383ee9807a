"""The slot batcher on a tiny random Llama: equal to `generate` whatever else is in the batch."""

from __future__ import annotations

from collections import abc
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM

from actors.contracts import Finish, Sampling
from actors.engines.batcher import Batcher
from actors.engines.generation import Delta, Generation
from actors.engines.model import SlotModel, load
from actors.engines.sequence import Sequence
from actors.engines.slot_cache import SlotCache
from actors.engines.span import Span
from actors.engines.text import byte_table
from bench.batcher_equal import differing, run_all
from supervision.errors import Internal
from tests.support import tiny

TOKENS = 40
POISON = 77  # a token id that some tests make fatal


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> abc.Iterator[Path]:
    before = torch.get_num_threads()
    yield tiny.make(tmp_path_factory.mktemp("models") / "tiny")
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model(folder: Path) -> SlotModel:
    return load(folder, tiny.card(folder), slots=40, threads=1)


@pytest.fixture(scope="module")
def table(folder: Path, model: SlotModel) -> tuple[bytes, ...]:
    return byte_table((folder / "tokenizer.json").read_text(), model.vocabulary)


@pytest.fixture(scope="module")
def prompts(model: SlotModel) -> list[tuple[int, ...]]:
    rng = Random(3)
    return [
        tuple(rng.choice([t for t in range(2, 300) if t != POISON]) for _ in range(size))
        for size in [1, 2, 3, 300, *(rng.randrange(4, 60) for _ in range(36))]
    ]


@pytest.fixture(scope="module")
def reference(folder: Path, prompts: list[tuple[int, ...]]) -> list[list[int]]:
    """What `generate` says to each prompt alone."""
    net = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    said = []
    for ids in prompts:
        out = net.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            max_new_tokens=TOKENS,
            do_sample=False,
        )
        said.append(out[0, len(ids) :].tolist())
    return said


def jobs(
    prompts: abc.Sequence[tuple[int, ...]],
    *,
    temperature: float = 0.0,
    emitted: abc.Sequence[abc.Sequence[int]] = (),
    **sampling: Any,
) -> list[Generation]:
    return [
        Generation(
            prompt_ids=ids,
            emitted_ids=tuple(emitted[at]) if emitted else (),
            sampling=Sampling(
                **{"max_tokens": TOKENS, "temperature": temperature, "seed": at - 9, **sampling}
            ),
        )
        for at, ids in enumerate(prompts)
    ]


@pytest.mark.parametrize(("slots", "prefill_tokens"), [(1, 256), (5, 16), (13, 64), (40, 4096)])
def test_greedy_equals_generate(
    model: SlotModel,
    table: tuple[bytes, ...],
    prompts: list[tuple[int, ...]],
    reference: list[list[int]],
    slots: int,
    prefill_tokens: int,
) -> None:
    ours = run_all(
        model, table, jobs(prompts), slots=slots, seed=slots, prefill_tokens=prefill_tokens
    )
    assert differing(ours, reference) == 0
    assert len({len(ids) for ids in ours}) > 1  # some ended by themselves, so sequences left early
    assert model.cache.memory_bytes == 0  # an idle batch holds nothing


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_continuation_in_another_batch_equals_the_undisturbed_run(
    model: SlotModel,
    table: tuple[bytes, ...],
    prompts: list[tuple[int, ...]],
    temperature: float,
) -> None:
    asked = {"temperature": temperature, "top_p": 0.9}
    whole = run_all(model, table, jobs(prompts, **asked), slots=40, seed=1)
    rng = Random(11)
    for slots in (1, 4, 17):
        part = [ids[: rng.randrange(len(ids) + 1)] for ids in whole]
        again = run_all(model, table, jobs(prompts, emitted=part, **asked), slots=slots, seed=slots)
        assert differing(again, whole) == 0


def test_the_text_of_a_continuation_goes_on_where_it_broke_off(
    model: SlotModel, table: tuple[bytes, ...], prompts: list[tuple[int, ...]]
) -> None:
    job = jobs(prompts[10:11], temperature=1.2, stop=("xyz", "\ufffd\ufffd\ufffd\ufffd\ufffd"))[0]

    def deltas(emitted: tuple[int, ...]) -> list[Delta]:
        sequence = Sequence(
            Generation(prompt_ids=job.prompt_ids, emitted_ids=emitted, sampling=job.sampling), table
        )
        if finish := sequence.replay(emitted, model.ends):
            return [Delta((), "", finish)]
        batcher = Batcher(model, slots=2, prefill_tokens=64)
        batcher.add(sequence)
        said: list[Delta] = []
        while batcher.busy:
            for _, item in batcher.step().said:
                assert isinstance(item, Delta)
                said.append(item)
        return said

    whole = deltas(())
    ids = tuple(token for delta in whole for token in delta.token_ids)
    assert whole[-1].finish is not None
    assert "\ufffd" in "".join(delta.text for delta in whole)  # there were broken characters
    for k in range(len(ids)):
        assert deltas(ids[:k]) == whole[k:]
    assert deltas(ids) == [Delta((), "", whole[-1].finish)]


def test_the_token_that_ends_a_turn_is_counted_and_has_no_text(
    model: SlotModel,
    table: tuple[bytes, ...],
    prompts: list[tuple[int, ...]],
    reference: list[list[int]],
) -> None:
    at = next(i for i, ids in enumerate(reference) if ids[-1] in model.ends and len(ids) > 1)
    sequence = Sequence(jobs(prompts)[at], table)
    batcher = Batcher(model, slots=1, prefill_tokens=512)
    batcher.add(sequence)
    said = []
    while batcher.busy:
        said += [item for _, item in batcher.step().said]
    last = said[-1]
    assert isinstance(last, Delta)
    assert last.token_ids == (reference[at][-1],)
    assert last.finish is Finish.STOP
    assert batcher.output_tokens == len(reference[at])
    assert batcher.prompt_tokens == len(prompts[at])


def test_a_step_takes_in_no_more_than_its_budget_and_fills_no_more_than_its_slots(
    model: SlotModel, table: tuple[bytes, ...], prompts: list[tuple[int, ...]]
) -> None:
    batcher = Batcher(model, slots=4, prefill_tokens=50)
    for job in jobs(prompts):
        batcher.add(Sequence(job, table))
    before = 0
    while batcher.busy:
        batcher.step()
        assert batcher.prompt_tokens - before <= 50
        assert batcher.running <= 4
        before = batcher.prompt_tokens
    assert batcher.prompt_tokens == sum(map(len, prompts))


def test_a_cancelled_row_leaves_at_the_next_step_and_nobody_notices(
    model: SlotModel,
    table: tuple[bytes, ...],
    prompts: list[tuple[int, ...]],
    reference: list[list[int]],
) -> None:
    rng = Random(5)
    sequences = [Sequence(job, table) for job in jobs(prompts)]
    batcher = Batcher(model, slots=6, prefill_tokens=48)
    for sequence in sequences:
        batcher.add(sequence)
    said: dict[Sequence, list[int]] = {sequence: [] for sequence in sequences}
    cancelled: set[Sequence] = set()
    dropped: list[Sequence] = []
    ended: set[Sequence] = set()
    while batcher.busy:
        step = batcher.step()
        dropped += step.dropped
        for sequence, item in step.said:
            assert isinstance(item, Delta)
            assert sequence not in cancelled  # not a token after the step that followed
            said[sequence] += item.token_ids
            if item.finish:
                ended.add(sequence)
        if rng.random() < 0.3:
            victim = rng.choice(sequences)
            batcher.cancel(victim)  # waiting, half taken in, running, done, or twice: all are fine
            if victim not in ended:
                cancelled.add(victim)
    assert len(cancelled) > 5
    assert sorted(map(id, dropped)) == sorted(map(id, cancelled))
    for at, sequence in enumerate(sequences):
        if sequence not in cancelled:
            assert said[sequence] == reference[at]


class Poisoned:
    """A model in which one token is fatal, as a bug in a kernel would be."""

    def __init__(self, model: SlotModel, *, nan: bool) -> None:
        self._model = model
        self._nan = nan
        self.cache = model.cache
        self.context = model.context
        self.ends = model.ends

    def forward(
        self, ids: abc.Sequence[int], decode: abc.Sequence[Span], prefill: abc.Sequence[Span]
    ) -> NDArray[np.float32]:
        if POISON in ids and not self._nan:
            raise RuntimeError("index out of range\nand a second line")
        logits = self._model.forward(ids, decode, prefill)
        at = 0
        for sequence, span in enumerate((*decode, *prefill)):
            if POISON in ids[at : at + span.count]:
                logits[sequence] = float("nan")
                for store in (self.cache._keys, self.cache._values):
                    store[0][span.slot] = float("nan")
            at += span.count
        return logits


@pytest.mark.parametrize("nan", [False, True])
def test_a_fault_in_one_row_fails_that_row_only(
    model: SlotModel,
    table: tuple[bytes, ...],
    prompts: list[tuple[int, ...]],
    reference: list[list[int]],
    nan: bool,
) -> None:
    asked = jobs(prompts)
    bad = {4, 17, 30}
    for at in bad:
        asked[at] = jobs([(*prompts[at], POISON, 9)])[0]
    # a slot that held nan is used again; answers that say the poison themselves fail by right
    fine = [at for at in range(len(asked)) if at not in bad and POISON not in reference[at][:-1]]
    batcher = Batcher(Poisoned(model, nan=nan), slots=7, prefill_tokens=64)
    sequences = {
        Sequence(job, table): at for at, job in enumerate(asked) if at in bad or at in fine
    }
    for sequence in sequences:
        batcher.add(sequence)
    said: dict[int, list[int]] = {at: [] for at in sequences.values()}
    failed = {}
    while batcher.busy:
        for sequence, item in batcher.step().said:
            if isinstance(item, Delta):
                said[sequences[sequence]] += item.token_ids
            else:
                failed[sequences[sequence]] = item
    assert set(failed) == bad
    assert len(fine) > 20
    for error in failed.values():
        assert isinstance(error, Internal)
        assert "\n" not in error.message
    assert [said[at] for at in fine] == [reference[at] for at in fine]


def test_memory_grows_as_needed_up_to_the_bound_and_is_given_back() -> None:
    cache = SlotCache(layers=2, heads=2, head_dim=4, slots=8, context=1000, dtype=torch.float32)
    token = 2 * 2 * 2 * 4 * 4  # stores, layers, heads, dim, bytes
    assert cache.memory_bytes == 0
    cache.reserve(1, 10)
    assert cache.memory_bytes == 1 * 256 * token
    cache._keys[1][0, :, 5] = 7.0
    cache.reserve(3, 300)
    assert cache.memory_bytes == 3 * 512 * token
    assert (cache._keys[1][0, :, 5] == 7.0).all()
    cache.reserve(8, 1000)
    assert cache.memory_bytes == 8 * 1000 * token
    cache.release()
    assert cache.memory_bytes == 0
