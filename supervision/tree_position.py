"""The position of a process in the start order of its node's tree, as a number. Pure.

The children of a supervisor are numbered from 0 in start order, those that start together have one
number between them, and a place is the numbers from the root down: `control/reservation` is (1, 2)
when `control` is the root's second child and the reservation is the third of `control`. Places are
laid out on a line of offsets so that whoever starts later lies further on, with all below it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

NUMBERS: Final = 4096  # siblings that are told apart; those beyond share the last number
LEVELS: Final = 5  # below the root; what is deeper shares its ancestor's place
END: Final = NUMBERS**LEVELS  # of the line, above all offsets; below 2**63, so lockable
STEP_S: Final = 5.0  # what one step of the order may take to end


@dataclass(frozen=True, slots=True)
class TreePosition:
    """One place; `numbers` is empty for the root."""

    numbers: tuple[int, ...] = ()

    @property
    def offset(self) -> int:
        """Of the process itself."""
        return self._first(0)

    @property
    def later(self) -> int:
        """The first offset of what starts after it and isn't below it; `END` if nothing can."""
        return self._first(NUMBERS ** (LEVELS - min(len(self.numbers), LEVELS)))

    def _first(self, beyond: int) -> int:
        first = beyond
        for level, number in enumerate(self.numbers[:LEVELS], start=1):
            digit = min(number, NUMBERS - 2) + 1  # 0 is the supervisor's own
            first += digit * NUMBERS ** (LEVELS - level)
        return first


ROOT: Final = TreePosition()


def patience_s(steps: int) -> float:
    """How long whoever has `steps` places after its own waits for them to be left: so whoever hangs
    at one holds up those before it, and they still end one after the other."""
    return steps * STEP_S
