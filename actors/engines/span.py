"""A span: where tokens of an answer go in a batch, in terms that batcher and models share."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Span:
    """`count` tokens of the answer in `slot`, from position `start`."""

    slot: int
    start: int
    count: int
