"""How a budget stood at each moment, as PostgreSQL itself has written it down, and what of that is
wrong: an overrun, or a refusal of what still fitted."""

from __future__ import annotations

import bisect
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tests.support.bills import Books

RECORD: Final = (
    """
    CREATE TABLE budget_history (
        n bigserial PRIMARY KEY, at float8, amount bigint, spent bigint, reserved bigint,
        refused bigint
    )
    """,
    """
    CREATE FUNCTION record_budget() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
    BEGIN
        INSERT INTO public.budget_history (at, amount, spent, reserved, refused)
        SELECT extract(epoch FROM clock_timestamp()), amount, NEW.spent, NEW.reserved, NEW.refused
        FROM public.budgets WHERE id = NEW.budget_id;
        RETURN NULL;
    END $$
    """,
    """
    CREATE TRIGGER record_budget AFTER INSERT OR UPDATE ON budget_periods
        FOR EACH ROW EXECUTE FUNCTION record_budget()
    """,
)
_LEFT: Final = re.compile(r" has (\d+) of \d+ \w+ left ")
_SLACK_S: Final = 0.05  # between two readings of one clock


@dataclass(frozen=True)
class Stand:
    """After one statement; whoever changes a period holds its row, so they are in order. `at` is
    Unix time."""

    at: float
    amount: int
    spent: int
    reserved: int
    refused: int

    @property
    def left(self) -> int:
        return max(0, self.amount - self.spent - self.reserved)

    @property
    def over(self) -> int:
        return max(0, self.spent + self.reserved - self.amount)


@dataclass(frozen=True)
class Refusal:
    """Of a request that `needs` at least so much, asked and answered at these Unix times."""

    key: str
    needs: int
    message: str
    asked: float
    answered: float

    @property
    def left(self) -> int | None:
        """What the budget had, it is told."""
        said = _LEFT.search(self.message)
        return int(said[1]) if said else None


async def recorded(books: Books) -> list[Stand]:
    """Of the one budget that there is, from the first on."""
    rows = await books.fetch(
        "SELECT at, amount, spent, reserved, refused FROM budget_history ORDER BY n"
    )
    return [Stand(**row) for row in rows]


def overruns(history: Sequence[Stand]) -> list[str]:
    """Moments in which more was spent and reserved than the amount."""
    return [
        f"overrun: {stand.spent} spent and {stand.reserved} reserved of {stand.amount}"
        for stand in history
        if stand.over
    ]


def wrong_refusals(history: Sequence[Stand], refusals: Sequence[Refusal]) -> list[str]:
    """What fitted and was refused; and what was refused without a statement that says so: one of
    that time, in which the budget had as much as the request was told. A statement may give room
    to some before it refuses others, so it knows a least and a most."""
    at = [stand.at for stand in history]
    found = []
    for refusal in refusals:
        left = refusal.left
        if left is None:
            found.append(f"refusal: {refusal.key} was told no number: {refusal.message}")
            continue
        if left >= refusal.needs:
            found.append(f"refusal: {refusal.key} needs {refusal.needs}, and {left} were left")
        first = max(1, bisect.bisect_left(at, refusal.asked - _SLACK_S))
        last = bisect.bisect_right(at, refusal.answered + _SLACK_S)
        if not any(_says(history[n - 1], history[n], left) for n in range(first, last)):
            found.append(
                f"refusal: {refusal.key} was told of {left} left, and no statement of its time "
                "has refused anybody then"
            )
    told = len({refusal.key for refusal in refusals})  # who asks twice at a time is refused once
    if history and told > history[-1].refused:
        found.append(f"refusal: {told} requests were, and {history[-1].refused} are counted")
    return found


def _says(before: Stand, after: Stand, left: int) -> bool:
    most = max(0, after.amount - before.spent - before.reserved)
    return after.refused > before.refused and after.left <= left <= most
