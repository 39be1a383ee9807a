"""When a node is suspect, and when it is gone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.roster.membership import Health, Membership, MembershipOptions

OPTIONS = MembershipOptions()


def members(*nodes: str, now: float = 0.0) -> Membership:
    made = Membership(nodes, now, OPTIONS)
    for node in nodes:
        made.heard(node, now)
    return made


def until(made: Membership, start: float, end: float, *heard: str) -> None:
    """Looks every second; `heard` announce themselves every second."""
    now = start
    while now <= end:
        for node in heard:
            made.heard(node, now)
        made.look(now)
        now += 1.0


def test_suspect_then_gone_then_back():
    made = members("a", "b", "c")
    until(made, 0, 9, "b", "c")
    assert made.health("a") is Health.ALIVE
    until(made, 10, 14, "b", "c")
    assert made.health("a") is Health.SUSPECT
    assert made.since("a") == 10
    until(made, 15, 15, "b", "c")
    assert made.health("a") is Health.GONE
    assert made.heard("a", 16)
    assert not made.heard("a", 17)
    assert made.health("a") is Health.ALIVE


def test_the_only_other_node_is_not_protected():
    made = members("a")
    until(made, 0, 15)
    assert made.health("a") is Health.GONE


def test_when_most_vanish_at_once_they_stay_suspects_for_a_while():
    made = members("a", "b", "c")
    until(made, 0, 59, "c")
    assert made.guarding
    assert [made.health(node) for node in "abc"] == [Health.SUSPECT, Health.SUSPECT, Health.ALIVE]
    until(made, 60, 60, "c")
    assert [made.health(node) for node in "abc"] == [Health.GONE, Health.GONE, Health.ALIVE]
    assert not made.guarding


def test_one_after_the_other_is_at_once_too():
    made = members("a", "b", "c")
    until(made, 0, 5, "b", "c")
    until(made, 6, 14, "c")
    until(made, 15, 22, "c")
    assert made.health("a") is Health.GONE, "one of three may go"
    assert made.health("b") is Health.SUSPECT, "the second within the window may not"
    until(made, 23, 40, "c")
    assert made.health("b") is Health.GONE, "and may when the first is old news"


def test_who_refuses_connections_is_dead_and_who_says_so_has_left():
    made = members("a", "b", "c")
    made.refused("a")
    made.refused("nobody")
    until(made, 0, 15)
    assert made.health("a") is Health.GONE
    assert made.health("b") is Health.SUSPECT
    assert made.left("c", 16)
    assert not made.left("c", 16)
    assert made.health("c") is Health.GONE
    assert made.heard("a", 17), "it is back"
    made.look(17)
    assert made.health("a") is Health.ALIVE


def test_who_slept_blames_nobody():
    made = members("a")
    made.look(1)
    assert made.look(100) == ()
    assert made.health("a") is Health.ALIVE
    until(made, 101, 113)
    assert made.health("a") is Health.SUSPECT
    until(made, 114, 114)
    assert made.health("a") is Health.GONE


def test_who_was_never_heard_is_unknown_and_stays_so():
    made = Membership(["a"], 0.0, OPTIONS)
    until(made, 0, 100)
    assert made.health("a") is Health.UNKNOWN
    assert made.health("nobody") is Health.UNKNOWN
    assert list(made) == ["a"]
    assert "nobody" not in made


@pytest.mark.parametrize(
    "wrong",
    [
        {"suspect_s": 15.0},
        {"expiry_s": 61.0},
        {"guard_least": 0},
        {"guard_share": 1.1},
        {"pause_s": 6.0},
        {"suspect_s": float("nan")},
    ],
)
def test_options_are_validated(wrong: dict[str, float]):
    with pytest.raises(ValueError):
        MembershipOptions(**wrong)  # type: ignore[arg-type]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("heard"), st.sampled_from("abcde")),
        st.tuples(st.just("refused"), st.sampled_from("abcde")),
        st.tuples(st.just("left"), st.sampled_from("abcde")),
        st.tuples(st.just("wait"), st.floats(0.01, 2.0)),
        st.tuples(st.just("sleep"), st.floats(2.5, 200.0)),
    ),
    max_size=150,
)


@given(STEPS)
def test_whatever_happens(steps: list[tuple[str, object]]):
    """Nobody is blamed too early, nobody is kept too long, and nobody goes unsuspected."""
    made = Membership("abcde", 0.0, OPTIONS)
    now, awake = 0.0, 0.0  # `awake` is time without our own sleeps
    heard: dict[str, float] = {}
    for what, with_ in steps:
        before = {node: made.health(node) for node in made}
        if what == "heard":
            made.heard(str(with_), now)
            heard[str(with_)] = awake
        elif what == "refused":
            made.refused(str(with_))
        elif what == "left":
            made.left(str(with_), now)
            heard.pop(str(with_), None)
        else:
            assert isinstance(with_, float)
            now += with_
            awake += with_ if what == "wait" else 0.0
            changed = made.look(now)
            assert set(changed) == {n for n in made if made.health(n) is not before[n]}
            for node in changed:
                if made.health(node) is Health.GONE:
                    assert before[node] is Health.SUSPECT
        for node in made:
            health = made.health(node)
            if node not in heard:
                assert health in (Health.UNKNOWN, Health.GONE)
                continue
            silent_s = awake - heard[node]
            if health is Health.SUSPECT:
                assert OPTIONS.suspect_s <= silent_s + 1e-6
                assert silent_s < OPTIONS.guard_s + 2.1
            elif health is Health.GONE:
                assert OPTIONS.expiry_s <= silent_s + 1e-6
            else:
                assert health is Health.ALIVE
                assert silent_s <= OPTIONS.suspect_s + 1e-6
