"""One answer in a batch."""

from __future__ import annotations

from collections import abc

from actors.contracts import Finish, Sampling
from actors.engines.generation import Delta, Generation
from actors.engines.text import TextState


class Sequence:
    """All tokens of the answer so far, and how many of them (`fed`) its slot has taken in; `lent`
    of these came from another answer."""

    __slots__ = (
        "cancelled",
        "done",
        "emitted",
        "failed",
        "fed",
        "given",
        "lent",
        "sampling",
        "scope",
        "slot",
        "text",
        "tokens",
    )

    def __init__(self, generation: Generation, table: abc.Sequence[bytes]) -> None:
        self.sampling: Sampling = generation.sampling
        self.scope = generation.scope
        self.tokens: list[int] = [*generation.prompt_ids, *generation.emitted_ids]
        self.given = len(self.tokens)
        self.emitted = len(generation.emitted_ids)
        self.text = TextState(table, generation.sampling.stop)
        self.fed = 0
        self.lent = 0
        self.slot = -1
        self.cancelled = False
        self.done = False
        self.failed = False

    @property
    def gone(self) -> bool:
        """Its slot is free for others."""
        return self.cancelled or self.done

    def replay(self, emitted: abc.Sequence[int], ends: frozenset[int]) -> Finish | None:
        """Bring the text to where `emitted` left it; how the answer ended if it had."""
        for token in emitted:
            if token in ends or self.text.push(token)[1]:
                return Finish.STOP
        return Finish.LENGTH if self.emitted >= self.sampling.max_tokens else None

    def accept(self, token: int, ends: frozenset[int]) -> Delta:
        """The next token of the answer."""
        self.tokens.append(token)
        self.emitted += 1
        finish: Finish | None = None
        if token in ends:
            text, finish = self.text.flush(), Finish.STOP
        else:
            text, stopped = self.text.push(token)
            if stopped:
                finish = Finish.STOP
            elif self.emitted >= self.sampling.max_tokens:
                text, finish = text + self.text.flush(), Finish.LENGTH
        self.done = finish is not None
        return Delta((token,), text, finish)
