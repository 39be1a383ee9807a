"""The most that a request can come to, known before anybody has tokenized it: what a budget holds
for it while it runs.

A token stands for at least one byte of the text that a tokenizer makes of what it is given, so a
prompt has never more tokens than bytes. Some normalize a text first, which may make it longer
(Qwen's NFC takes one musical symbol apart into three); full compatibility decomposition (NFKD) is
the longest of the four forms, so a text counts as the longer of itself and that. What a chat
template adds is `TOKENS_A_MESSAGE` for each message and `TOKENS_A_REQUEST` once: the marks of a
turn, and a system prompt where the client sent none.

Money is reckoned in whole micros, as a bill is: each token of a prompt or an answer at the dearest
that it can be (no discount of a cache), the sum rounded up.

Pure.
"""

from __future__ import annotations

import unicodedata
from typing import Final, NamedTuple

from actors.contracts import ChatInput, EmbeddingInput, Input, TextInput

TOKENS_A_MESSAGE: Final = 32
TOKENS_A_REQUEST: Final = 64
_MILLION: Final = 1_000_000


class Rates(NamedTuple):
    """Micros of money per million tokens, and per request: the dearest that they can be."""

    prompt: int
    output: int
    request: int


class RequestBound(NamedTuple):
    """At most so many tokens in the prompt, in the answer, and in both together."""

    prompt: int
    output: int
    total: int

    def tokens(self, output: int) -> int:
        """The most that it comes to with an answer of at most `output` tokens."""
        return min(self.prompt + output, self.total)

    def micros(self, output: int, rates: Rates) -> int:
        """The most that it costs with an answer of at most `output` tokens. Where prompt and
        answer can't both be as long as they may, the dearer of the two is."""
        if rates.output >= rates.prompt:
            said = min(output, self.total)
            read = min(self.prompt, self.total - said)
        else:
            read = min(self.prompt, self.total)
            said = min(output, self.total - read)
        return -(-(read * rates.prompt + said * rates.output) // _MILLION) + rates.request

    def within_tokens(self, left: int) -> int | None:
        """The longest answer that `left` tokens suffice for; None if there is no such."""
        return self._longest(left >= self.tokens(self.output), left - self.prompt)

    def within_micros(self, left: int, rates: Rates) -> int | None:
        """The longest answer that `left` micros suffice for; None if there is no such."""
        fits = left >= self.micros(self.output, rates)
        if fits or not rates.output or left < self.micros(0, rates):
            return self._longest(fits, -1)
        room = (left - rates.request) * _MILLION
        apart = (room - self.prompt * rates.prompt) // rates.output
        if self.prompt + apart < self.total or rates.output <= rates.prompt:
            return self._longest(False, apart)
        # of so long an answer the prompt must be the shorter, and each token of it takes the place
        # of a cheaper one
        return self._longest(
            False, (room - self.total * rates.prompt) // (rates.output - rates.prompt)
        )

    def _longest(self, fits: bool, output: int) -> int | None:
        if fits:
            return self.output
        return min(output, self.output) if output >= min(1, self.output) else None


def prompt_bound(input: Input) -> int:
    """Never fewer tokens than a tokenizer makes of it."""
    if isinstance(input, TextInput):
        return _bytes(input.prompt) + TOKENS_A_REQUEST
    if isinstance(input, EmbeddingInput):
        return sum(map(_bytes, input.texts)) + TOKENS_A_REQUEST * len(input.texts)
    assert isinstance(input, ChatInput)
    said = sum(_bytes(message.role) + _bytes(message.content) for message in input.messages)
    return said + TOKENS_A_MESSAGE * len(input.messages) + TOKENS_A_REQUEST


def _bytes(text: str) -> int:
    if text.isascii():
        return len(text)
    longest = unicodedata.normalize("NFKD", text)
    return max(len(text.encode(errors="replace")), len(longest.encode(errors="replace")))
