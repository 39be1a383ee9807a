"""Whether a settle is billed: its usage says with what, and this whether it counts. Pure."""

from __future__ import annotations

from actors.contracts import Outcome, Settle


def is_billed(settle: Settle) -> bool:
    """A completed job is billed; a cancelled one if anything of it was used; one that failed if its
    settle says that output is billed all the same (`emitted`): a release before this one tells what
    a failed job has used, and means nothing by it."""
    if settle.outcome is Outcome.COMPLETED:
        return True
    usage = settle.usage
    if settle.outcome is Outcome.CANCELLED:
        return usage.prompt_tokens > 0 or usage.completion_tokens > 0
    return settle.emitted > 0
