"""docs/policies.md says what other orders would do; its numbers and its claims are made anew."""

from __future__ import annotations

import re

import pytest

from bench._policy_orders import FAULTS, ORDERS, Result, Simulation, table
from bench.policies import DOCS, tables_in


@pytest.mark.parametrize("fault", FAULTS)
def test_the_tables_of_the_docs_are_those_of_the_simulation(fault: str) -> None:
    tables = tables_in(DOCS.read_text("utf-8"))
    assert set(tables) == set(FAULTS)
    assert tables[fault] == table(fault), "run `scripts/bench policies --write`"


def test_the_same_seed_gives_the_same_result_and_another_one_does_not() -> None:
    order = ORDERS["**default**"]
    assert Simulation(order, "stalls", 2).run() == Simulation(order, "stalls", 2).run()
    assert Simulation(order, "stalls", 2).run() != Simulation(order, "stalls", 3).run()


def result(name: str, fault: str, seed: int) -> Result:
    return Simulation(ORDERS[name], fault, seed).run()


@pytest.mark.parametrize("seed", [2, 3, 4])
def test_what_the_docs_conclude_holds_for_other_seeds(seed: int) -> None:
    errors = {name: result(name, "errors", seed) for name in ORDERS}
    default = errors["**default**"]
    assert default.attempts < 0.2
    assert errors["no breaker, no budget"].attempts > 2.5
    assert errors["no breaker"].attempts < 1.4, "the budget alone bounds what a dead target gets"
    assert errors["breaker outside retry"].attempts > 2 * default.attempts
    assert default.late == 0 < errors["deadline inside retry"].late
    assert default.recovered_s < 2
    stalls = result("**default**", "stalls", seed)
    assert stalls.answered > result("timeout outside retry", "stalls", seed).answered + 5


def test_the_example_of_the_docs_runs(capsys: pytest.CaptureFixture[str]) -> None:
    example = re.search(r"```python\n(.*?)```", DOCS.read_text("utf-8"), re.DOTALL)
    assert example is not None
    exec(compile(example[1], "docs/policies.md", "exec"), {"__name__": "example"})
    assert capsys.readouterr().out == "attempt 2, 5 s left\n"
