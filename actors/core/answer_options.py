"""Options of finished answers that are kept. Pure."""

from __future__ import annotations

from typing import Final

import msgspec

MOST_BYTES: Final = 4 << 20  # of one answer; what is asked and settled goes in frames of 16 MiB


class AnswerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How much is kept of the answers of requests with an idempotency key: each for `keep_s` (0:
    none is), if it has at most `answer_bytes` when it is compressed, and of one tenant
    `tenant_bytes` in all, of which the oldest go first.

    Raises:
        ValueError: a number is out of its range.
    """

    keep_s: float = 86_400.0
    answer_bytes: int = 1 << 20
    tenant_bytes: int = 64 << 20

    def __post_init__(self) -> None:
        if not self.keep_s >= 0:
            raise ValueError("keep_s of answers must not be below 0")
        if not 1 <= self.answer_bytes <= MOST_BYTES:
            raise ValueError(f"answer_bytes must be from 1 to {MOST_BYTES}")
        if self.tenant_bytes < self.answer_bytes:
            raise ValueError("tenant_bytes of answers must be at least answer_bytes, or none fits")
