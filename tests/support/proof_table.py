"""The table that a long proof prints: what was done, what was seen, and whether it holds."""

from __future__ import annotations


class Proof:
    """Its rows; `holds` is false once one of them does not hold."""

    def __init__(self) -> None:
        self.holds = True
        print(f"{'':4}{'done':44}seen", flush=True)

    def row(self, done: str, seen: str, good: bool = True) -> None:
        self.holds &= good
        print(f"{'ok' if good else 'NOT':4}{done:44}{seen}", flush=True)
