"""A generation: what is asked of an engine, and what comes of it bit by bit."""

from __future__ import annotations

from dataclasses import dataclass

from actors.contracts import Finish, Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One answer to compute. `sampling.seed` is set; `max_tokens` counts `emitted_ids` too. Only
    those of an equal `scope` use what was computed for one another: who waits less would learn
    what others have asked."""

    prompt_ids: tuple[int, ...]
    emitted_ids: tuple[int, ...] = ()
    sampling: Sampling
    scope: str = ""


@dataclass(frozen=True, slots=True)
class Delta:
    """Output tokens and the text they added (empty inside a character or a possible stop
    string). The token that ends a turn is among the ids and has no text. Only the last delta
    of an answer has a `finish`."""

    token_ids: tuple[int, ...]
    text: str
    finish: Finish | None = None
