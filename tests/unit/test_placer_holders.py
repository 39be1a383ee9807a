"""Who has a worker that may run anywhere."""

from __future__ import annotations

import msgspec

from actors.contracts import Fleet, HealthReport
from actors.placer.holders import holders
from tests.support.samples import sample


def worker(node: str, name: str, *models: str) -> HealthReport:
    return msgspec.structs.replace(
        sample(HealthReport), worker_id=name, node_id=node, address=f"{node}/w/1", models=models
    )


def test_nobody_but_a_leader_keeps_a_worker_from_being_placed():
    fleet = Fleet(
        version=1,
        workers=(
            worker("n2", "big.eu", "m@1"),
            worker("n3", "n3/big.eu"),
            worker("n4", "big.eu", "m@1"),
            worker("n4", "n4/big.eu", "m@1"),
            worker("n2", "small.eu", "m@1"),
        ),
    )
    assert holders(fleet, "big.eu", {"n2", "n3"}) == {"n2": True, "n3": False}
    assert holders(fleet, "big.eu", {"n1"}) == {}
    assert holders(fleet, "small.eu", {"n2", "n4"}) == {"n2": True}
