"""Refunds: how much of a bill is given back. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from actors.contracts import Usage
from actors.core.money import shown
from actors.core.price import Price, charge_micros
from actors.core.sealing import LedgerEntry
from supervision.errors import BadRequest


class Refund(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens and micros that are given back; all of them 0 or more."""

    prompt: int = 0
    cached: int = 0
    reasoning: int = 0
    output: int = 0
    micros: int = 0

    @property
    def columns(self) -> tuple[int, int, int, int, int]:
        """In the order of the ledger's columns."""
        return self.prompt, self.cached, self.reasoning, self.output, self.micros


def refund_of(
    entries: Sequence[LedgerEntry],
    price: Price | None,
    *,
    tokens: int | None = None,
    micros: int | None = None,
) -> Refund:
    """The last `tokens` of an answer (and of its prompt, where the answer has no more) at the price
    of the job, or `micros` of money, or all that is left of these entries.

    Raises:
        BadRequest: it is more than is left, nothing, or both are named.
    """
    left = Refund(
        prompt=sum(entry.prompt_tokens for entry in entries),
        cached=sum(entry.cached_tokens for entry in entries),
        reasoning=sum(entry.reasoning_tokens for entry in entries),
        output=sum(entry.output_tokens for entry in entries),
        micros=sum(entry.micros for entry in entries),
    )
    if tokens is not None and micros is not None:
        raise BadRequest("a refund is so many tokens or so many micros; name one of them")
    if not any(left.columns):
        raise BadRequest("all of this bill was given back before; nothing is left of it")
    if micros is not None:
        if not 0 < micros <= left.micros:
            raise BadRequest(
                f"{micros} micros can't be given back: of this bill "
                f"{shown(left.micros, entries[0].currency)} is left, {left.micros} micros"
            )
        return Refund(micros=micros)
    if tokens is None:
        return left
    if not 0 < tokens <= left.prompt + left.output:
        raise BadRequest(
            f"{tokens} tokens can't be given back: {left.prompt + left.output} are left of this "
            "bill"
        )
    return _last(left, tokens, price)


def _last(left: Refund, tokens: int, price: Price | None) -> Refund:
    output = min(tokens, left.output)
    kept = Refund(
        prompt=left.prompt - (tokens - output),
        cached=min(left.cached, left.prompt - (tokens - output)),
        reasoning=min(left.reasoning, left.output - output),
        output=left.output - output,
    )
    if not kept.prompt and not kept.output:
        return left  # what a request costs goes with its last token
    money = charge_micros(_usage(left), price) - charge_micros(_usage(kept), price)
    return Refund(
        prompt=left.prompt - kept.prompt,
        cached=left.cached - kept.cached,
        reasoning=left.reasoning - kept.reasoning,
        output=output,
        micros=max(0, min(left.micros, money)),
    )


def _usage(of: Refund) -> Usage:
    return Usage(
        prompt_tokens=of.prompt,
        completion_tokens=of.output,
        cached_tokens=of.cached,
        reasoning_tokens=of.reasoning,
    )
