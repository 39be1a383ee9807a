"""Which models a worker keeps: by examples, and what holds whatever happens."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from actors.worker.model_cache import FIRST_RETRY_S, ModelCache
from actors.worker.model_state import Close, Load, ModelPhase, Rank, Step, Wish
from tests.support.properties import examples

KEEP_S, IDLE_S = 5.0, 60.0


def wish(ref: str, size: int = 1, **fields: object) -> Wish:
    return Wish(ref=ref, **({"size": size, "certain": True} | fields))  # type: ignore[arg-type]


def pool(budget: int, *wishes: Wish) -> ModelCache:
    made = ModelCache(budget, keep_s=KEEP_S, idle_s=IDLE_S)
    made.wish(wishes)
    return made


def carry_out(made: ModelCache, now: float, steps: list[Step] | None = None) -> list[Step]:
    """Everything that is planned happens at once, until nothing is planned; what was done."""
    done: list[Step] = []
    steps = made.plan(now) if steps is None else steps
    while steps:
        for step in steps:
            done.append(step)
            if isinstance(step, Load):
                made.loaded(step.ref, 0, now)
            else:
                made.closed(step.ref)
        steps = made.plan(now)
    return done


def use(made: ModelCache, ref: str, now: float) -> list[Step]:
    """One run, from its wish to its end; what was done for it."""
    assert not made.refusal(ref, now)
    done = [] if made.ask(ref, now) else carry_out(made, now)
    made.leave(ref, now)
    return done


def test_all_is_loaded_where_there_is_no_budget_one_after_the_other_in_order() -> None:
    made = pool(
        0, wish("old", rank=Rank.OTHER), wish("canary", rank=Rank.CANARY), wish("now"),
        wish("pin", pinned=True, rank=Rank.OTHER),
    )  # fmt: skip
    assert made.plan(0.0) == [Load("pin")]
    assert made.plan(0.0) == [], "one at a time, while nobody waits"
    assert made.loading == ("pin", "now", "canary", "old")
    made.loaded("pin", 0, 1.0)
    assert [s.ref for s in carry_out(made, 1.0)] == ["now", "canary", "old"]
    assert made.warm == ("pin", "now", "canary", "old")
    assert (made.loadable(1.0), len(made.loading)) == ((), 0)


def test_a_run_begins_its_load_beside_one_that_nobody_waits_for() -> None:
    made = pool(0, wish("a"), wish("b"), wish("c"), wish("d"))
    assert made.plan(0.0) == [Load("a")]
    assert not made.ask("d", 0.0)
    assert not made.ask("c", 0.1)
    assert made.plan(0.2) == [Load("d")]
    assert [made.loaded("d", 0, 1.0), made.plan(1.0)] == [1, [Load("c")]]


def test_the_least_used_one_goes_and_a_pinned_one_stays() -> None:
    made = pool(3, wish("pin", pinned=True), wish("a"), wish("b"), wish("c"))
    carry_out(made, 0.0)
    assert made.warm == ("pin", "a", "b")
    assert made.loadable(0.0) == ("c",)
    use(made, "a", 1.0)
    assert use(made, "c", 10.0) == [Close("b", "room"), Load("c")]
    assert use(made, "b", 20.0) == [Close("a", "room"), Load("b")]
    assert made.warm == ("pin", "b", "c")


def test_no_more_goes_than_must() -> None:
    made = pool(7, wish("small", 1), wish("large", 5), wish("middle", 1), wish("new", 5))
    carry_out(made, 0.0)
    for now, ref in enumerate(("small", "large", "middle"), 1):
        use(made, ref, float(now))
    assert use(made, "new", 10.0) == [Close("large", "room"), Load("new")]


def test_what_was_just_loaded_is_kept_a_moment_and_what_runs_until_it_has_run() -> None:
    made = pool(1, wish("a"), wish("b"))
    carry_out(made, 0.0)
    assert not made.ask("b", 1.0)
    assert made.plan(KEEP_S - 0.1) == []
    assert not made.loading, "nothing makes way for it yet"
    assert made.ask("a", KEEP_S)
    assert made.plan(100.0) == [], "it is in use"
    made.leave("a", 100.0)
    assert made.plan(100.0) == [Close("a", "room")]
    assert made.loading == ("b",)
    assert made.plan(100.0) == [], "its bytes aren't free before it is closed"
    made.closed("a")
    assert made.plan(100.0) == [Load("b")]
    assert made.loaded("b", 0, 101.0) == 1
    made.leave("b", 101.0)


def test_fifty_runs_are_one_load() -> None:
    made = pool(1, wish("a"), wish("b"))
    carry_out(made, 0.0)
    for _ in range(50):
        assert not made.ask("b", 10.0)
    made.give_up("b")
    assert made.plan(10.0) == [Close("a", "room")]
    made.closed("a")
    assert made.plan(10.0) == [Load("b")]
    assert made.loaded("b", 0, 11.0) == 49
    assert made.plan(11.0) == []


def test_what_can_never_fit_is_refused_by_name_and_the_rest_goes_on() -> None:
    made = pool(4 << 20, wish("pin", 3 << 20, pinned=True), wish("a", 2 << 20), wish("b", 5 << 20),
                wish("c", 1 << 20))  # fmt: skip
    carry_out(made, 0.0)
    assert made.warm == ("pin", "c")
    assert made.loadable(0.0) == ()
    assert "a needs 2 MiB" in made.refusal("a", 0.0)
    assert "pinned ones have 3 MiB" in made.refusal("a", 0.0)
    assert "b needs 5 MiB, this worker's models may take 4 MiB" in made.refusal("b", 0.0)
    assert "doesn't run x" in made.refusal("x", 0.0)


def test_what_turns_out_larger_makes_others_go_and_itself_if_it_must() -> None:
    made = pool(10, wish("a", 4), wish("b", 4, certain=False))
    carry_out(made, 0.0)
    made.resize("b", 7)
    assert made.plan(1.0) == [Close("a", "room")]
    made.closed("a")
    made.resize("b", 11)
    assert made.plan(2.0) == [Close("b", "room")]
    made.closed("b")
    assert carry_out(made, 2.0) == [Load("a")]
    assert "b needs" in made.refusal("b", 2.0), "it is known to be too large"


def test_a_canary_is_warmed_in_place_of_what_nobody_uses_and_it_comes_to_rest() -> None:
    made = pool(2, wish("a@1"), wish("b@1"))
    carry_out(made, 0.0)
    use(made, "a@1", 50.0)
    made.wish(
        [wish("a@1"), wish("a@2", rank=Rank.CANARY), wish("b@1"), wish("b@2", rank=Rank.CANARY)]
    )
    assert carry_out(made, 59.0) == []
    assert made.plan(60.0) == [Close("b@1", "room")]
    made.closed("b@1")
    assert carry_out(made, 60.0) == [Load("a@2")], "what goes doesn't come back in its place"
    assert carry_out(made, 200.0) == [Close("a@1", "room"), Load("b@2")]
    for now in range(300, 3000, 100):
        assert carry_out(made, float(now)) == []


def test_what_is_retired_goes_after_its_last_run_and_is_not_given_out_meanwhile() -> None:
    made = pool(0, wish("a"), wish("b"))
    carry_out(made, 0.0)
    assert made.ask("a", 1.0)
    made.wish([wish("b")])
    assert made.warm == ("b",)
    assert "doesn't run a" in made.refusal("a", 1.0)
    assert made.plan(1.0) == []
    made.leave("a", 2.0)
    assert carry_out(made, 2.0) == [Close("a", "retired")]
    assert made.held == 1


def test_what_has_changed_is_loaded_anew_after_its_last_run() -> None:
    made = pool(0, wish("a", identity=1))
    carry_out(made, 0.0)
    assert made.ask("a", 1.0)
    made.wish([wish("a", identity=2, size=3)])
    assert made.warm == ()
    assert not made.ask("a", 2.0), "a new run waits for the new one"
    made.leave("a", 3.0)
    assert made.plan(3.0) == [Close("a", "changed")]
    made.closed("a")
    assert made.plan(3.0) == [Load("a")]
    assert made.loaded("a", 0, 4.0) == 1
    assert made.held == 3


def test_who_waits_for_what_has_changed_has_it_when_it_has_changed_back() -> None:
    made = pool(0, wish("a", identity=1))
    use(made, "a", 0.0)
    assert made.wish([wish("a", identity=2)]) == {}
    assert not made.ask("a", 1.0)
    assert not made.ask("a", 1.0)
    assert made.wish([wish("a", identity=1)]) == {"a": 2}
    assert made.plan(2.0) == []
    for _ in range(2):
        made.leave("a", 3.0)
    assert made.wish([wish("a", identity=2)]) == {}
    assert made.plan(4.0) == [Close("a", "changed")]


def test_what_changes_while_it_is_loaded_is_loaded_anew() -> None:
    made = pool(0, wish("a", identity=1))
    assert made.plan(0.0) == [Load("a")]
    assert not made.ask("a", 0.0)
    made.wish([wish("a", identity=2)])
    assert made.loaded("a", 0, 1.0) == 0
    assert made.plan(1.0) == [Close("a", "changed")]
    made.closed("a")
    assert made.plan(1.0) == [Load("a")]
    assert made.loaded("a", 0, 2.0) == 1


def test_a_failure_is_tried_again_after_longer_and_longer() -> None:
    made = pool(0, wish("a"))
    now = 0.0
    for failures in range(3):
        assert made.plan(now) == [Load("a")]
        made.failed("a", "no file", now)
        assert not made.alive
        assert made.faults == {"a": "no file"}
        assert "no file" in made.refusal("a", now)
        assert made.loadable(now) == ()
        assert made.plan(now + FIRST_RETRY_S * 2**failures - 0.1) == []
        now += FIRST_RETRY_S * 2**failures
    carry_out(made, now)
    assert (made.warm, made.faults) == (("a",), {})


def test_an_engine_that_is_lost_is_loaded_again_when_it_is_closed() -> None:
    made = pool(0, wish("a"))
    carry_out(made, 0.0)
    assert made.ask("a", 1.0)
    made.lost("a")
    assert made.plan(1.0) == []
    made.closed("a")
    assert made.plan(1.0) == [Load("a")]
    made.leave("a", 1.0)
    made.loaded("a", 0, 2.0)
    assert made.warm == ("a",)


def test_pins_that_do_not_fit_together_are_none() -> None:
    made = pool(3, wish("p", 2, pinned=True), wish("q", 2, pinned=True), wish("a", 1))
    carry_out(made, 0.0)
    assert made.warm == ("p", "a")
    assert "pinned ones have" in made.refusal("q", 0.0)


def test_room_for_a_pinned_one_is_kept_while_it_can_not_be_loaded() -> None:
    made = pool(2, wish("a"), wish("b"))
    carry_out(made, 0.0)
    assert made.ask("a", 1.0)
    assert made.ask("b", 1.0)
    made.wish([wish("a"), wish("b"), wish("c"), wish("pin", pinned=True)])
    assert made.plan(10.0) == []
    assert not made.ask("c", 10.0)
    made.leave("a", 11.0)
    assert carry_out(made, 11.0) == [Close("a", "room"), Load("pin")]


def test_bounds() -> None:
    with pytest.raises(ValueError, match="negative"):
        ModelCache(-1)


REFS = ("a", "b", "c", "d", "e")
WISHES = st.lists(
    st.builds(
        Wish,
        ref=st.sampled_from(REFS),
        identity=st.integers(0, 1),
        size=st.integers(0, 5),
        certain=st.booleans(),
        rank=st.sampled_from(Rank),
        pinned=st.booleans(),
    ),
    unique_by=lambda w: w.ref,
)


class Machine(RuleBasedStateMachine):
    """A shell that takes its time, runs that come and go, and a catalog that changes."""

    @initialize(budget=st.integers(0, 12), wishes=WISHES)
    def begin(self, budget: int, wishes: list[Wish]) -> None:
        self.warm = ModelCache(budget, keep_s=KEEP_S, idle_s=IDLE_S)
        self.now = 0.0
        self.under_way: list[Step] = []
        self.holds: dict[str, int] = {}
        self.waits: dict[str, int] = {}
        self.wish(wishes)

    @rule(wishes=WISHES)
    def wish(self, wishes: list[Wish]) -> None:
        for ref, served in self.warm.wish(wishes).items():
            assert served == self.waits.pop(ref)
            self.holds[ref] = self.holds.get(ref, 0) + served
        for ref in [r for r in self.waits if r not in {w.ref for w in wishes}]:
            for _ in range(self.waits.pop(ref)):  # the shell sends them away
                self.warm.give_up(ref)

    @rule(ref=st.sampled_from(REFS))
    def run(self, ref: str) -> None:
        if self.warm.refusal(ref, self.now):
            return
        into = self.holds if self.warm.ask(ref, self.now) else self.waits
        into[ref] = into.get(ref, 0) + 1

    @precondition(lambda self: any(self.holds.values()))
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        ref = data.draw(st.sampled_from([r for r, n in self.holds.items() if n]))
        self.holds[ref] -= 1
        self.warm.leave(ref, self.now)

    @precondition(lambda self: any(self.waits.values()))
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        ref = data.draw(st.sampled_from([r for r, n in self.waits.items() if n]))
        self.waits[ref] -= 1
        self.warm.give_up(ref)

    @rule(seconds=st.sampled_from([0.1, 3.0, 70.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def plan(self) -> None:
        steps = self.warm.plan(self.now)
        for step in steps:
            model = self.warm._models[step.ref]
            assert all(step.ref != other.ref for other in self.under_way), "one step at a time"
            if isinstance(step, Close):
                assert not self.holds.get(step.ref), "a run has it"
                assert step.why != "room" or not model.pinned
            else:
                assert model.wish is not None
        self.under_way += steps
        budget = self.warm.budget
        if budget and self.warm.held - self.warm._room.coming > budget:
            assert not list(self.warm._room.idle()), "something could still go"

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), fails=st.booleans(), size=st.integers(0, 8))
    def carry_out(self, data: st.DataObject, fails: bool, size: int) -> None:
        step = self.under_way.pop(data.draw(st.integers(0, len(self.under_way) - 1)))
        if isinstance(step, Close):
            self.warm.closed(step.ref)
        elif fails:
            self.warm.failed(step.ref, "broken", self.now)
            self.waits.pop(step.ref, None)
        else:
            served = self.warm.loaded(step.ref, size, self.now)
            if served:
                assert served == self.waits.pop(step.ref)
                self.holds[step.ref] = self.holds.get(step.ref, 0) + served

    @invariant()
    def nothing_is_counted_twice(self) -> None:
        if not hasattr(self, "warm"):
            return
        warm = self.warm
        seen = [*warm.warm, *warm.loading, *warm.loadable(self.now)]
        assert len(seen) == len(set(seen))
        for ref in REFS:
            model = warm._models.get(ref)
            assert (model.holds if model else 0) == self.holds.get(ref, 0)
            assert (model.waits if model else 0) == self.waits.get(ref, 0)
        loads = sum(isinstance(step, Load) for step in self.under_way)
        assert loads == sum(m.phase is ModelPhase.LOADING for m in warm._models.values()) <= 2

    def teardown(self) -> None:
        """All runs end, every load succeeds and takes what was expected: whoever waits is served,
        and then nothing moves any more."""
        if not hasattr(self, "warm"):
            return
        for ref, count in self.holds.items():
            for _ in range(count):
                self.warm.leave(ref, self.now)
        waiting = {ref for ref, count in self.waits.items() if count}
        done = 0
        for _ in range(60):
            self.now += 400.0
            steps = self.under_way + self.warm.plan(self.now)
            self.under_way = []
            done = len(steps)
            for step in steps:
                if isinstance(step, Close):
                    self.warm.closed(step.ref)
                    continue
                for _ in range(self.warm.loaded(step.ref, 0, self.now)):
                    self.warm.leave(step.ref, self.now)
                waiting.discard(step.ref)
        assert not done, "it never comes to rest"
        for ref in waiting:
            assert self.warm.refusal(ref, self.now), f"{ref} fits and was never loaded"
        budget = self.warm.budget
        pins = sum(m.size for m in self.warm._models.values() if m.pinned)
        assert not budget or self.warm.held <= max(budget, pins)


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=examples(60), stateful_step_count=40)


class Certain(Machine):
    """Where every card says what its model takes, the budget holds at every moment."""

    @initialize(
        budget=st.integers(1, 12),
        wishes=st.lists(
            st.builds(
                Wish, ref=st.sampled_from(REFS), size=st.integers(1, 5), certain=st.just(True),
                rank=st.sampled_from(Rank), pinned=st.booleans(),
            ),
            unique_by=lambda w: w.ref,
        ),
    )  # fmt: skip
    def begin(self, budget: int, wishes: list[Wish]) -> None:
        super().begin(budget, wishes)

    @rule()
    def wish(self, wishes: list[Wish] | None = None) -> None:
        if wishes is not None:
            super().wish(wishes)

    @invariant()
    def the_budget_holds(self) -> None:
        if hasattr(self, "warm"):
            assert self.warm.held <= self.warm.budget


TestCertain = Certain.TestCase
TestCertain.settings = settings(max_examples=examples(100), stateful_step_count=40)
