"""A few cells of the fault matrix; `scripts/prove faults` runs them all."""

from __future__ import annotations

import pytest

from bench._fault_node import FaultNode, run_with_node
from bench.faults import FAULTS, Cell, crash_loop, matrix
from supervision.strategy import Strategy


@pytest.mark.timeout(600)
def test_faults_restart_whom_the_strategy_names_and_nobody_else() -> None:
    async def some(node: FaultNode) -> list[Cell]:
        cells = await matrix(node, ["roster"], [Strategy.REST_FOR_ONE], FAULTS)
        cells += await matrix(node, ["gateways"], [Strategy.ONE_FOR_ALL], ["SIGKILL"])
        return [*cells, await crash_loop(node)]

    cells = run_with_node(some)
    assert len(cells) == 7
    assert [cell for cell in cells if cell.wrong] == []
