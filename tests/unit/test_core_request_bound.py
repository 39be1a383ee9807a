"""The most that a request can come to."""

from __future__ import annotations

import unicodedata

from hypothesis import given, settings
from hypothesis import strategies as st

from actors.contracts import ChatInput, EmbeddingInput, Message, TextInput
from actors.core.request_bound import Rates, RequestBound, prompt_bound
from tests.support.properties import examples

PRICES = st.sampled_from([0, 1, 3, 250_000, 600_000, 1_000_000, 2_500_000, 10**9])
BOUNDS = st.builds(RequestBound, st.integers(0, 40), st.integers(0, 40), st.integers(1, 60))
RATES = st.builds(Rates, PRICES, PRICES, st.sampled_from([0, 5, 1000]))


@settings(max_examples=examples(200), deadline=None)
@given(BOUNDS, RATES)
def test_no_prompt_and_answer_that_are_possible_come_to_more(
    bound: RequestBound, rates: Rates
) -> None:
    possible = [
        (read, said)
        for read in range(bound.prompt + 1)
        for said in range(bound.output + 1)
        if read + said <= bound.total
    ]
    assert bound.tokens(bound.output) == max(map(sum, possible))
    assert bound.micros(bound.output, rates) == max(
        -(-(read * rates.prompt + said * rates.output) // 10**6) + rates.request
        for read, said in possible
    )


@settings(max_examples=examples(300), deadline=None)
@given(BOUNDS, RATES, st.integers(0, 200) | st.integers(0, 70_000))
def test_an_answer_is_as_long_as_what_is_left_affords_and_no_longer(
    bound: RequestBound, rates: Rates, left: int
) -> None:
    some = range(min(1, bound.output), bound.output + 1)
    tokens = [output for output in some if bound.tokens(output) <= left]
    assert bound.within_tokens(left) == max(tokens, default=None)
    micros = [output for output in some if bound.micros(output, rates) <= left]
    assert bound.within_micros(left, rates) == max(micros, default=None)


@settings(max_examples=examples(200))
@given(st.text())
def test_a_prompt_has_no_more_tokens_than_bytes_in_any_normal_form(text: str) -> None:
    bound = prompt_bound(TextInput(prompt=text))
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        assert bound >= len(unicodedata.normalize(form, text).encode(errors="replace"))


def test_normalization_may_make_a_text_longer() -> None:
    """NFC, by which Qwen's tokenizer begins, takes this note apart into three characters."""
    note = "\U0001d160"
    assert len(note.encode()) == 4
    assert prompt_bound(TextInput(prompt=note * 1000)) >= 12_000


def test_each_message_and_each_text_is_counted() -> None:
    one = prompt_bound(ChatInput(messages=(Message(role="user", content="abc"),)))
    assert one == len("user") + len("abc") + 32 + 64
    two = prompt_bound(ChatInput(messages=(Message(role="user", content="abc"),) * 2))
    assert two - one == len("user") + len("abc") + 32
    assert prompt_bound(EmbeddingInput(texts=("abc", "ü"))) == 3 + 3 + 2 * 64


def test_halves_of_characters_are_counted_too() -> None:
    assert prompt_bound(TextInput(prompt="\ud800")) >= 1
