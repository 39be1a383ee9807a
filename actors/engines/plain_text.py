"""User text as text: what a request says never becomes a token that steers the model.

A tokenizer reads the names of its control tokens (`<|im_end|>`) wherever they stand, so a text that
holds one could forge turns. Here only a chat template's own names stand for tokens. To tell them
from those in a content, the template is rendered a second time, with every character of every
content set apart by a mark: a character that occurs nowhere else. Names without a mark are the
template's, whatever it did with the contents (trim, lower, replace), and wherever they meet it.
A template that looks for words in a content (`'</think>' in content`) renders something else from
that; then the mark stands only within the names that a content holds, and at its ends where they
are parts of one.

If the tokens of the whole text are the template's own, they are taken as they are: of harmless
content the ids are those of the ordinary path. Otherwise what stands between the template's tokens
is encoded piece by piece as plain characters. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final, Protocol

from supervision.errors import BadRequest

_MARKS: Final = (range(0xE000, 0xF900), range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE))
_TRIED: Final = 8  # marks looked for one by one, before all characters of a text are listed

Messages = list[dict[str, str]]
Render = Callable[[Messages], str]


class Encode(Protocol):
    """Text to ids; `special` adds what the model wants around a text. With `plain`, names of
    special tokens are characters as far as the library can do that."""

    def __call__(self, text: str, *, special: bool, plain: bool = False) -> tuple[int, ...]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """A token that a tokenizer finds by its name, wherever that stands. `special` ones are never
    text by what the model's files say; `before` and `after` swallow the blanks there."""

    id: int
    name: str
    special: bool
    before: bool = False
    after: bool = False


def steering(added: Iterable[Added], template: str, reads: Iterable[str]) -> tuple[Added, ...]:
    """Those that must not come from content: the special ones, and what else the `template` writes
    by name, as DeepSeek's does with the tokens of roles. What it `reads` in contents itself, such
    as `</think>`, is content's to say; runs of blanks are words."""
    looked_for = tuple(reads)
    return tuple(
        token
        for token in added
        if token.name
        and (
            token.special
            or (
                not token.name.isspace()
                and token.name in template
                and not any(token.name in text for text in looked_for)
            )
        )
    )


class ControlTokens:
    """The tokens that steer a model, and where their names stand in a text.

    `unknown` is the name of the one that stands for characters which the vocabulary lacks: its id
    says nothing of where it came from.
    """

    def __init__(
        self, tokens: Iterable[Added] = (), *, unknown: str | None = None, template: str = ""
    ) -> None:
        self._by_name = {token.name: token for token in tokens}
        self._lengths = sorted({len(name) for name in self._by_name}, reverse=True)
        self._firsts = tuple({name[0] for name in self._by_name})
        self._heads = {name[:at] for name in self._by_name for at in range(1, len(name))}
        self._tails = {name[at:] for name in self._by_name for at in range(1, len(name))}
        self.unknown = unknown if unknown in self._by_name else None
        self.ids = frozenset(
            token.id for token in self._by_name.values() if token.name != self.unknown
        )
        self.template = template

    def __iter__(self) -> Iterator[Added]:
        return iter(self._by_name.values())

    def found(self, text: str, *, overlapping: bool = False) -> Iterator[tuple[int, Added]]:
        """Where names begin, the longest of those that begin at one place; a name within another is
        found only if they may be `overlapping`."""
        free = 0
        for at in self._candidates(text):
            if at < free:
                continue
            for length in self._lengths:
                if token := self._by_name.get(text[at : at + length]):
                    free = at + 1 if overlapping else at + len(token.name)
                    yield at, token
                    break

    def _candidates(self, text: str) -> Iterator[int]:
        places: list[int] = []
        for first in self._firsts:
            at = text.find(first)
            while at >= 0:
                places.append(at)
                at = text.find(first, at + 1)
        places.sort()
        return iter(places)

    def cut(self, text: str) -> list[str]:
        """`text` in pieces none of which holds a name."""
        cuts = [at + (len(token.name) > 1) for at, token in self.found(text, overlapping=True)]
        return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True) if a < b]

    def broken(self, content: str, mark: str) -> str:
        """`content` with `mark` in its names, and at its ends where these may be part of one."""
        most = self._lengths[0] if self._lengths else 0
        text = mark.join(self.cut(content))
        within = len(content) < most and any(content in name for name in self._by_name)
        if within or any(content[-n:] in self._heads for n in range(1, most)):
            text += mark
        if within or any(content[:n] in self._tails for n in range(1, most)):
            text = mark + text
        return text


class PlainText:
    """Prompts of one model, in which no control token is a client's."""

    def __init__(self, control: ControlTokens, encode: Encode) -> None:
        self._control = control
        self._encode = encode
        body, whole = encode("a", special=False), encode("a", special=True)
        at = next((n for n in range(len(whole)) if whole[n : n + len(body)] == body), 0)
        self._before, self._after = whole[:at], whole[at + len(body) :]
        self._around = self._steers((*self._before, *self._after))

    def _steers(self, ids: Iterable[int]) -> list[int]:
        return [token for token in ids if token in self._control.ids]

    def text(self, prompt: str) -> tuple[int, ...]:
        """The ids of a prompt without a template, and of what the model wants around it."""
        return self.checked(prompt, self._encode(prompt, special=True))

    def checked(self, prompt: str, ids: tuple[int, ...]) -> tuple[int, ...]:
        """`ids`, which the ordinary path made of `prompt`; if any steers, others."""
        unknown = self._control.unknown
        if self._steers(ids) == self._around and not (unknown and unknown in prompt):
            return ids
        return (*self._before, *self.characters(prompt), *self._after)

    def conversation(self, text: str, messages: Messages, render: Render) -> tuple[int, ...]:
        """The ids of `messages`, of which `render` makes `text`.

        Raises:
            BadRequest: the template refuses messages without the names of control tokens, or
                they use up all private characters.
        """
        mark = _mark(chain([text, self._control.template], (m["content"] for m in messages)))
        marked = self._marked(text, messages, render, mark)
        unmarked = marked.replace(mark, "")
        ids = self._encode(unmarked, special=False)
        own = [
            (at, token)
            for at, token in self._control.found(marked)
            if len(token.name) > 1 or marked[at - 1 : at] != mark
        ]
        unknown = self._control.unknown
        if self._steers(token.id for _, token in own) == self._steers(ids) and not (
            unknown and unmarked.count(unknown) != marked.count(unknown)
        ):
            return ids
        made: list[int] = []
        at = 0
        for start, token in own:
            between = marked[at:start].replace(mark, "")
            made += self.characters(between.rstrip() if token.before else between)
            made.append(token.id)
            at = start + len(token.name)
            if token.after:
                at += len(marked[at:]) - len(marked[at:].lstrip())
        return (*made, *self.characters(marked[at:].replace(mark, "")))

    def _marked(self, text: str, messages: Messages, render: Render, mark: str) -> str:
        apart = [{**m, "content": _apart(m["content"], mark)} for m in messages]
        try:
            marked = render(apart)
        except BadRequest:  # it looks at contents, as below
            marked = ""
        if marked.replace(mark, "") == text:
            return marked
        return render(
            [{**m, "content": self._control.broken(m["content"], mark)} for m in messages]
        )

    def characters(self, text: str) -> tuple[int, ...]:
        """The ids of `text`, in which no name stands for a token."""
        if not text:
            return ()
        ids = self._encode(text, special=False, plain=True)
        if self._control.ids.isdisjoint(ids):
            return ids
        made: list[int] = []
        for piece in self._control.cut(text):  # some libraries find some names all the same
            ids = self._encode(piece, special=False, plain=True)
            if not self._control.ids.isdisjoint(ids):
                ids = tuple(chain.from_iterable(map(self._alone, piece)))
            made += ids
        return tuple(made)

    def _alone(self, character: str) -> Iterator[int]:
        ids = self._encode(character, special=False, plain=True)
        return (token for token in ids if token not in self._control.ids)


def _apart(content: str, mark: str) -> str:
    """`content` with `mark` before, between and after its characters, but for blanks at the ends:
    a template may trim them."""
    core = content.strip()
    if not core:
        return content
    at = content.index(core)
    return f"{content[:at]}{mark}{mark.join(core)}{mark}{content[at + len(core) :]}"


def _mark(texts: Iterable[str]) -> str:
    """A private character that none of them has."""
    every: Sequence[str] = tuple(texts)
    marks = map(chr, chain.from_iterable(_MARKS))
    for _, mark in zip(range(_TRIED), marks, strict=False):
        if not any(mark in text for text in every):
            return mark
    used = set().union(*every)
    for mark in marks:
        if mark not in used:
            return mark
    raise BadRequest(
        "messages hold every private character of Unicode; leave one out", param="messages"
    )
