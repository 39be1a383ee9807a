"""The section `[answers]` of `cluster.toml`: what is kept of finished answers. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final

from msgspec import Meta

from actors.core.answer_options import MOST_BYTES, AnswerOptions
from supervision.settings import Problem, Section

HOUR_S: Final = 3600.0
_KIB: Final = 1 << 10
_MIB: Final = 1 << 20


class AnswersSection(Section, frozen=True, kw_only=True):
    """Finished answers of requests with an idempotency key, in the database. Each is kept for
    `keep_hours` (0: none is), if it has at most `answer_kib` when it is compressed; those of one
    tenant have `tenant_mib` in all, of which the oldest go first. The least is a day, or none."""

    keep_hours: Annotated[float, Meta(ge=0, le=24 * 36_500)] = 24.0
    answer_kib: Annotated[int, Meta(ge=1, le=MOST_BYTES // _KIB)] = 1024
    tenant_mib: Annotated[int, Meta(ge=1, le=1 << 24)] = 64

    @property
    def options(self) -> AnswerOptions:
        """As actors take it."""
        return AnswerOptions(
            keep_s=self.keep_hours * HOUR_S,
            answer_bytes=self.answer_kib * _KIB,
            tenant_bytes=self.tenant_mib * _MIB,
        )

    def violations(self, keep_jobs_days: float) -> Iterator[Problem]:
        """What of it doesn't go together, and with how long jobs are kept (0: for ever)."""
        if self.tenant_mib * _MIB < self.answer_kib * _KIB:
            yield Problem(
                "answers.tenant_mib",
                f"{self.tenant_mib} MiB hold no answer of answers.answer_kib ({self.answer_kib}); "
                "raise it",
            )
        if 0 < self.keep_hours < 24:
            yield Problem(
                "answers.keep_hours",
                "an idempotency key is good for a day at least; write 24 or more, or 0 to keep "
                "no answers",
            )
        if keep_jobs_days and self.keep_hours > 24 * keep_jobs_days:
            yield Problem(
                "answers.keep_hours",
                f"an answer is found by its job, which is kept for stores.keep_jobs_days "
                f"({keep_jobs_days:g}); write {24 * keep_jobs_days:g} or less",
            )
