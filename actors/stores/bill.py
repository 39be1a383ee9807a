"""Whether a settle is billed: what was delivered is, whatever the outcome says. Pure."""

from __future__ import annotations

from actors.contracts import Outcome, Settle

BILLED = frozenset({Outcome.COMPLETED, Outcome.CANCELLED})


def is_billed(settle: Settle) -> bool:
    """A job that was completed or cancelled is billed with its usage, and so is one that failed
    after something of its answer had reached the reader (`emitted`)."""
    return settle.outcome in BILLED or settle.emitted > 0
