"""The supervisor's timer must not be lost when the clock goes on between decision and arming."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from supervision.actions import Action, Spawn
from supervision.backoff import Backoff
from supervision.spec import ChildSpec
from supervision.strategy import Strategy
from supervision.tree import SupervisionTree
from supervision.tree_driver import TreeDriver


class Clock:
    """A loop of which only time and timers exist. Each look at the clock takes `step`."""

    def __init__(self) -> None:
        self.now = 0.0
        self.step = 0.0
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        self.now += self.step
        return self.now

    def call_later(self, delay: float, callback: Callable[[], None]) -> Any:
        timer = (self.now + delay, callback)
        self.timers.append(timer)

        class Handle:
            def cancel(_self) -> None:  # noqa: N805
                if timer in self.timers:
                    self.timers.remove(timer)

        return Handle()

    def advance(self, to: float) -> None:
        """Let time pass, and fire what is due."""
        self.now = to
        for timer in [t for t in self.timers if t[0] <= to]:
            self.timers.remove(timer)
            timer[1]()


def test_a_child_that_fell_due_while_the_timer_was_armed_is_still_started() -> None:
    clock = Clock()
    spawned: list[int] = []

    def carry_out(action: Action) -> None:
        if isinstance(action, Spawn):
            spawned.append(action.generation)

    child = ChildSpec(id="c", start="m:C", backoff=Backoff(initial_s=1.0, max_s=1.0))
    tree = SupervisionTree(
        "",
        (child,),
        strategy=Strategy.ONE_FOR_ONE,
        intensity=10,
        period_s=5.0,
        draw=lambda: 0.0,
        together=True,
        eager=True,
    )
    driver = TreeDriver(clock, tree, carry_out)  # type: ignore[arg-type]
    driver.perform(tree.begin(driver.now()))

    def dies() -> None:
        generation = spawned[-1]
        tree.spawned("c", generation, 1, "n/1/0", driver.now())
        tree.ready("c", generation, 1, "n/1/0", driver.now())
        driver.perform(tree.exited("c", generation, driver.now(), "gone"))

    dies()  # the first restart has no delay
    dies()
    assert len(spawned) == 2
    (due, _), *_ = clock.timers
    # Something else happens a little before it is due, and the clock passes it meanwhile.
    clock.now = due - 0.0005
    clock.step = 0.0004
    driver.perform(tree.tick(driver.now()))
    clock.step = 0.0
    clock.advance(due + 1.0)
    assert len(spawned) == 3, "nothing would ever have started it again"
