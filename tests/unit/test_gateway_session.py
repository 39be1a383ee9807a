from __future__ import annotations

import pytest

from actors.contracts import Finish, Usage
from actors.errors import KeyReused
from actors.gateway.session import Session, SessionBounds, SessionKey, Sessions
from supervision.errors import Overloaded

KEY = SessionKey("acme", "chat", "token-1")


def key(token: str, endpoint: str = "chat") -> SessionKey:
    return SessionKey("acme", endpoint, token)


def test_the_same_token_finds_the_same_session_and_another_body_is_refused() -> None:
    sessions = Sessions(SessionBounds())
    session = Session(KEY, b"body", explicit=True)
    sessions.open(session, 10)
    assert sessions.find(KEY, b"body") is session
    assert sessions.find(KEY._replace(tenant_id="other"), b"else") is None
    assert sessions.find(KEY._replace(endpoint="infer"), b"else") is None, "its own at each"
    with pytest.raises(KeyReused) as caught:
        sessions.find(KEY, b"else")
    assert (caught.value.status, caught.value.param) == (422, "Idempotency-Key")


def test_a_finished_session_is_kept_for_a_while_and_an_implicit_one_is_not() -> None:
    sessions = Sessions(SessionBounds(keep_s=60))
    kept, gone = Session(KEY, b"", explicit=True), Session(key("2"), b"", explicit=False)
    sessions.open(kept, 1)
    sessions.open(gone, 1)
    sessions.finish(kept, 100.0, keep=True)
    sessions.finish(gone, 100.0, keep=False)
    assert len(sessions) == 1
    assert sessions.running == 0
    assert sessions.sweep(159.0) == 0
    assert sessions.find(KEY, b"") is kept
    assert sessions.sweep(160.0) == 1
    assert sessions.find(KEY, b"") is None
    assert (sessions.tokens, sessions.characters) == (0, 0)


def test_finished_sessions_make_room_and_running_ones_do_not() -> None:
    sessions = Sessions(SessionBounds(sessions=2))
    first, second = Session(KEY, b"", True), Session(key("2"), b"", True)
    sessions.open(first, 1)
    sessions.open(second, 1)
    with pytest.raises(Overloaded, match="2 sessions"):
        sessions.open(Session(key("3"), b"", True), 1)
    sessions.finish(first, 1.0, keep=True)
    sessions.open(Session(key("3"), b"", True), 1)
    assert sessions.find(KEY, b"") is None
    assert len(sessions) == 2


@pytest.mark.parametrize(
    "bounds", [SessionBounds(tokens=3), SessionBounds(characters=8)], ids=["tokens", "characters"]
)
def test_tokens_and_characters_are_bounded_and_given_back(bounds: SessionBounds) -> None:
    sessions = Sessions(bounds)
    session = Session(KEY, b"", True)
    sessions.open(session, 4)
    session.journal.add((1, 2, 3), "abcd")
    sessions.grew(session)
    sessions.grew(session)
    assert (sessions.tokens, sessions.characters) == (3, 8)
    with pytest.raises(Overloaded):
        sessions.open(Session(key("2"), b"", True), 1)
    session.journal.close(Finish.STOP, Usage())
    sessions.finish(session, 0.0, keep=True)
    sessions.open(Session(key("2"), b"", True), 1)
    assert (sessions.tokens, sessions.characters) == (0, 1)


def test_forgetting_twice_counts_once() -> None:
    sessions = Sessions(SessionBounds())
    session = Session(KEY, b"", True)
    sessions.open(session, 4)
    sessions.drop(session)
    sessions.drop(session)
    sessions.finish(session, 1.0, keep=True)
    assert (len(sessions), sessions.running, sessions.characters) == (0, 0, 0)


def test_the_number_of_finished_sessions_is_bounded() -> None:
    sessions = Sessions(SessionBounds(finished=2))
    for number in range(5):
        session = Session(key(str(number)), b"", True)
        sessions.open(session, 1)
        sessions.finish(session, float(number), keep=True)
    assert len(sessions) == 2


def test_bounds_are_validated() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        SessionBounds(sessions=0)


def test_one_that_ended_badly_is_held_and_no_answer() -> None:
    sessions = Sessions(SessionBounds())
    session = Session(KEY, b"body", True)
    sessions.open(session, 4)
    session.journal.add((1, 2), "ab")
    sessions.grew(session)
    assert sessions.ended(KEY) is None, "it runs"
    sessions.finish(session, 1.0, keep=True)
    assert sessions.ended(KEY) is session
    assert sessions.answered(KEY) is None
    with pytest.raises(KeyReused):
        sessions.find(KEY, b"else")
    sessions.drop(session)
    following = Session(KEY, b"body", True)
    following.journal = session.journal.copy()
    sessions.open(following, 4)
    assert (sessions.tokens, sessions.characters) == (2, 6), "what it took over counts"
    following.journal.close(Finish.STOP, Usage())
    sessions.finish(following, 2.0, keep=True)
    assert sessions.answered(KEY) is following.journal
    assert sessions.ended(KEY) is None
