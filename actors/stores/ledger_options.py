"""Options of a ledger: rounds, leases, patience, and how long it keeps what."""

from __future__ import annotations

from typing import Final

import msgspec

from actors.core.answer_options import AnswerOptions

KEEP_JOBS_MIN_S: Final = 86_400.0


class LedgerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a ledger works.

    `round_max` requests go into one statement and `waiting_max` wait for one. Leases live for
    `lease_s` and are renewed about every third of that (`actors.reservation.renewer`); every
    `sweep_s` those that have run out are swept, `sweep_batch` at a time. A reserve is tried for its
    deadline but at most `reserve_patience_s`, a settle for `settle_patience_s`. A statement that
    takes longer than `statement_s` is given up and sent again on another connection.

    A job that was settled is deleted after `keep_jobs_s`, and its retry token with it: who sends
    that again then is answered anew. Months of the ledger that ended `keep_ledger_s` ago are
    dropped. 0 keeps for ever. Every `prune_s` it is looked, and `prune_batch` rows go in one
    statement. Every `seal_s` what was billed is sealed, at most `seal_batch` entries in a block.
    `answers` says what is kept of finished answers.

    Raises:
        ValueError: a number is not above 0 (or, of what is kept, below), jobs are kept for less
            than a day, or answers longer than jobs.
    """

    round_max: int = 256
    waiting_max: int = 8192
    sweep_s: float = 1.0
    sweep_batch: int = 500
    lease_s: float = 12.0
    reserve_patience_s: float = 4.0
    settle_patience_s: float = 30.0
    statement_s: float = 5.0
    keep_jobs_s: float = 30 * 86_400.0
    keep_ledger_s: float = 0.0
    prune_s: float = 60.0
    prune_batch: int = 500
    seal_s: float = 60.0
    seal_batch: int = 2048
    answers: AnswerOptions = AnswerOptions()

    def __post_init__(self) -> None:
        for field in self.__struct_fields__:
            if field == "answers":
                continue
            least = 0 if field.startswith("keep_") else 1e-9
            if not getattr(self, field) >= least:
                raise ValueError(f"{field} of the reservation must be above 0")
        if self.keep_ledger_s and not 0 < self.keep_jobs_s <= self.keep_ledger_s:
            raise ValueError(
                "what was billed must be kept as long as its job: make keep_ledger_s of the "
                "reservation at least keep_jobs_s, or 0 for ever"
            )
        if 0 < self.keep_jobs_s < KEEP_JOBS_MIN_S:
            raise ValueError(
                f"keep_jobs_s of the reservation must be at least {KEEP_JOBS_MIN_S:g}, for a retry "
                "token is known only as long, or 0 for ever"
            )
        if 0 < self.keep_jobs_s < self.answers.keep_s:
            raise ValueError(
                "an answer is found by its job: make keep_jobs_s of the reservation at least "
                "keep_s of its answers, or 0 for ever"
            )
