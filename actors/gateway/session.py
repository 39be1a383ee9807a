"""The sessions of a gateway: every request that runs or has just been answered, with its journal.

A session is found by (tenant, endpoint, retry token), so that a request which comes twice is
answered from one computation. One that ended badly isn't joined any more, but its journal stays for
a while: who sends its token again goes on from there. The table is bounded by sessions, tokens and
characters; finished sessions make room first, oldest first.

Pure.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

import msgspec

from actors.core.journal import Journal
from actors.errors import KeyReused
from supervision.errors import Overloaded


class SessionKey(NamedTuple):
    """What one request is, however often it comes."""

    tenant_id: str
    endpoint: str
    retry_token: str


class SessionBounds(msgspec.Struct, frozen=True, kw_only=True):
    """How much a gateway remembers. `keep_s` is how long a finished session with an explicit
    token can still be joined, or, if it ended badly, gone on with.

    Raises:
        ValueError: a bound is below 1.
    """

    sessions: int = 8192
    finished: int = 2048
    tokens: int = 8_000_000
    characters: int = 128_000_000
    keep_s: float = 60.0

    def __post_init__(self) -> None:
        if min(self.sessions, self.finished, self.tokens, self.characters) < 1:
            raise ValueError("the bounds of sessions must be at least 1")
        if not self.keep_s >= 0:
            raise ValueError("keep_s must not be negative")


class Session:
    """One request: who sent it, what it is, and its answer so far."""

    __slots__ = (
        "characters",
        "explicit",
        "fingerprint",
        "finished_at",
        "input_characters",
        "journal",
        "key",
        "tokens",
    )

    def __init__(self, key: SessionKey, fingerprint: bytes, explicit: bool) -> None:
        self.key = key
        self.fingerprint = fingerprint
        self.explicit = explicit
        self.journal = Journal()
        self.finished_at: float | None = None
        self.input_characters = 0
        self.tokens = 0
        self.characters = 0  # of the input and the journal


class Sessions:
    """The table of all sessions of one gateway."""

    def __init__(self, bounds: SessionBounds) -> None:
        self.bounds = bounds
        self._by_key: dict[SessionKey, Session] = {}
        self._finished: OrderedDict[SessionKey, Session] = OrderedDict()
        self.tokens = 0
        self.characters = 0

    def __len__(self) -> int:
        return len(self._by_key)

    @property
    def running(self) -> int:
        """Sessions that have no end yet."""
        return len(self._by_key) - len(self._finished)

    def find(self, key: SessionKey, fingerprint: bytes) -> Session | None:
        """The session of this key, if there is one.

        Raises:
            KeyReused: the token belongs to another body.
        """
        session = self._by_key.get(key)
        if session is not None and session.fingerprint != fingerprint:
            raise KeyReused.told()
        return session

    def ended(self, key: SessionKey) -> Session | None:
        """The session of this key that has ended badly, and whose journal is held."""
        session = self._finished.get(key)
        return None if session is None or session.journal.finish is not None else session

    def answered(self, key: SessionKey) -> Journal | None:
        """The journal of an answer that is held in full."""
        session = self._by_key.get(key)
        return None if session is None or session.journal.finish is None else session.journal

    def open(self, session: Session, characters: int) -> None:
        """Take in a new session whose input has `characters`.

        Raises:
            Overloaded: a bound is reached, and no finished session is left to make room.
        """
        bounds = self.bounds
        while self._finished and (
            len(self._by_key) >= bounds.sessions
            or self.tokens >= bounds.tokens
            or self.characters + characters > bounds.characters
        ):
            self.drop(next(iter(self._finished.values())))
        if (
            len(self._by_key) >= bounds.sessions
            or self.tokens >= bounds.tokens
            or self.characters + characters > bounds.characters
        ):
            raise Overloaded(
                f"the gateway holds {len(self._by_key)} sessions with {self.tokens} tokens, and "
                "no more fit; try again",
                retry_after_s=1.0,
            )
        self._by_key[session.key] = session
        session.input_characters = session.characters = characters
        self.characters += characters
        if session.journal.tokens:
            self.grew(session)

    def grew(self, session: Session) -> None:
        """The session's journal has more than before; count it."""
        journal = session.journal
        tokens = journal.tokens + len(journal.prompt_ids)
        characters = session.input_characters + journal.characters
        self.tokens += tokens - session.tokens
        self.characters += characters - session.characters
        session.tokens = tokens
        session.characters = characters

    def finish(self, session: Session, now: float, *, keep: bool) -> None:
        """The session has its end. Without `keep` it is forgotten."""
        if self._by_key.get(session.key) is not session:
            return
        session.finished_at = now
        if not keep or not self.bounds.keep_s:
            self.drop(session)
            return
        self._finished[session.key] = session
        if len(self._finished) > self.bounds.finished:
            self.drop(next(iter(self._finished.values())))

    def drop(self, session: Session) -> None:
        """Forget it. Safe to call twice."""
        if self._by_key.get(session.key) is not session:
            return
        del self._by_key[session.key]
        self._finished.pop(session.key, None)
        self.tokens -= session.tokens
        self.characters -= session.characters

    def sweep(self, now: float) -> int:
        """Forget finished sessions that were kept long enough; how many."""
        dropped = 0
        for session in list(self._finished.values()):
            assert session.finished_at is not None
            if now - session.finished_at < self.bounds.keep_s:
                break
            self.drop(session)
            dropped += 1
        return dropped
