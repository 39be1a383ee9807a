"""The journal of an answer: what was said so far, which makes it possible to go on with it.

The worker keeps one of what it emitted, the gateway's session one of what it received. Both
are read through `Reader`s, which may start at any token, may be many, and may come late.

Pure.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from itertools import chain

from actors.contracts import Chunk, Completed, Finish, Usage
from actors.errors import AnswerGone, WorkerLost

MAX_PIECES = 1024  # so that a late joiner's first chunk stays far below a frame's bound


class Journal:
    """Token ids and text in the pieces in which they came, from token `base` on.

    A piece is the smallest part that can be sent: where text belongs to several tokens at once
    it can't be cut. Text without a token waits for the next piece, so that a position in tokens
    is always a position in text, too.
    """

    __slots__ = (
        "_ends",
        "_held",
        "_ids",
        "_texts",
        "base",
        "characters",
        "finish",
        "model_ref",
        "prompt_ids",
        "tokens",
        "usage",
    )

    def __init__(self, base: int = 0) -> None:
        self.base = base
        self.prompt_ids: tuple[int, ...] = ()
        self.finish: Finish | None = None
        self.usage = Usage()
        self.model_ref = ""
        self.tokens = base
        self.characters = 0
        self._ids: list[tuple[int, ...]] = []
        self._texts: list[str] = []
        self._ends: list[int] = []
        self._held = ""

    def __len__(self) -> int:
        """The number of pieces."""
        return len(self._ends)

    @property
    def emitted_ids(self) -> tuple[int, ...]:
        """All output tokens from `base` on; with `prompt_ids` all that a continuation needs."""
        return tuple(chain.from_iterable(self._ids))

    def add(self, token_ids: tuple[int, ...], text: str, seq: int | None = None) -> bool:
        """Append a piece; `seq` is the number of tokens before it (default: it follows).

        Returns whether anything was new: a piece that is known already is dropped.

        Raises:
            WorkerLost: the piece leaves a gap, or is known only in part.
        """
        if seq is not None and seq != self.tokens:
            if token_ids and seq + len(token_ids) <= self.tokens:
                return False
            raise WorkerLost(
                f"the worker sent {len(token_ids)} tokens from {seq} where {self.tokens} "
                "was to come; the answer can't be continued from it"
            )
        self.characters += len(text)
        if not token_ids:
            self._held += text
            return bool(text)
        if self._held:
            text = self._held + text
            self._held = ""
        self.tokens += len(token_ids)
        self._ids.append(token_ids)
        self._texts.append(text)
        self._ends.append(self.tokens)
        return True

    def copy(self) -> Journal:
        """One that says the same, and grows on its own."""
        journal = Journal(self.base)
        for name in self.__slots__:
            held = getattr(self, name)
            setattr(journal, name, held.copy() if isinstance(held, list) else held)
        return journal

    def close(self, finish: Finish, usage: Usage, model_ref: str = "") -> None:
        """The answer is complete; nothing may be added any more."""
        self.finish = finish
        self.usage = usage
        self.model_ref = model_ref

    def piece_at(self, seq: int) -> int:
        """The index of the piece that begins at token `seq`.

        Raises:
            AnswerGone: no piece begins there.
        """
        if seq == self.base:
            return 0
        index = bisect_left(self._ends, seq)
        if index == len(self._ends) or self._ends[index] != seq:
            raise AnswerGone(
                f"the answer can't be taken up at token {seq}: {self.tokens} are known, and "
                "none of their pieces begins there; send the request anew"
            )
        return index + 1

    def pieces(self) -> Iterator[tuple[tuple[int, ...], str]]:
        """All pieces, (token ids, text), in order."""
        return zip(self._ids, self._texts, strict=True)

    def between(self, first: int, last: int) -> tuple[int, tuple[int, ...], str]:
        """Pieces `first` to `last` (exclusive) as one: (seq, token ids, text)."""
        seq = self._ends[first - 1] if first else self.base
        if last - first == 1:
            return seq, self._ids[first], self._texts[first]
        return (
            seq,
            tuple(chain.from_iterable(self._ids[first:last])),
            "".join(self._texts[first:last]),
        )

    @property
    def held(self) -> str:
        """Text that has no token of its own yet; part of `Completed` in the end."""
        return self._held


class Reader:
    """A place in a journal.

    Args:
        from_seq: the first token to read.
        whole: say nothing before the answer is complete, then all of it.
        split_at: never put the tokens before and after this position into one chunk, because
            somebody downstream has to continue exactly there.
        with_prompt: put the prompt's ids into the first item.

    Raises:
        AnswerGone: the journal can't be read from `from_seq`.
    """

    __slots__ = ("_journal", "_piece", "_prompt", "_split", "_whole", "characters")

    def __init__(
        self,
        journal: Journal,
        from_seq: int = 0,
        *,
        whole: bool = False,
        split_at: int = 0,
        with_prompt: bool = False,
    ) -> None:
        self._journal = journal
        self._piece = journal.piece_at(from_seq)
        self._whole = whole
        self._split = split_at if split_at > from_seq else 0  # what lies behind needs no cut
        self._prompt = with_prompt
        self.characters = journal.characters if self._piece else 0

    @property
    def pending(self) -> bool:
        """Is there something to read?"""
        journal = self._journal
        if journal.finish is not None:
            return True
        return not self._whole and self._piece < len(journal)

    @property
    def started(self) -> bool:
        """Has anything been read?"""
        return self._piece > 0

    def next(self) -> Chunk | Completed | None:
        """All that is new, as one item; None when there is nothing (yet)."""
        journal = self._journal
        first, last = self._piece, len(journal)
        complete = journal.finish is not None
        if last - first > MAX_PIECES and not self._whole:
            last, complete = first + MAX_PIECES, False
        if self._split and not self._whole:
            cut = self._cut(first, last)
            if cut:
                last, complete = cut, False
        prompt: tuple[int, ...] = ()
        if complete:
            self._piece = last
            if self._prompt:
                prompt, self._prompt = journal.prompt_ids, False
            seq, ids, text = journal.between(first, last) if last > first else _nothing(journal)
            if journal.held:
                text += journal.held
            assert journal.finish is not None
            return Completed(
                seq=seq,
                token_ids=ids,
                text=text,
                finish=journal.finish,
                usage=journal.usage,
                model_ref=journal.model_ref,
                prompt_ids=prompt,
            )
        if self._whole or last == first:
            return None
        self._piece = last
        self.characters = journal.characters
        if self._prompt:
            prompt, self._prompt = journal.prompt_ids, False
        seq, ids, text = journal.between(first, last)
        return Chunk(seq=seq, token_ids=ids, text=text, prompt_ids=prompt)

    def _cut(self, first: int, last: int) -> int:
        """Where to end before `last` so that `split_at` stays a boundary; 0: nowhere."""
        journal = self._journal
        if journal.tokens < self._split:
            return 0
        index = journal.piece_at(self._split)
        self._split = 0
        return index if first < index < last else 0


def _nothing(journal: Journal) -> tuple[int, tuple[int, ...], str]:
    return journal.tokens, (), ""
