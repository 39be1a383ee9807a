"""A worker's report of its health, and when it is due."""

from __future__ import annotations

import msgspec

from actors.contracts import (
    HealthReport,
    ModelCard,
)
from actors.core.model_digest import digest_of
from actors.worker.health import HealthReporter


def report(running: int, sequence: int) -> HealthReport:
    return HealthReport(
        worker_id="w",
        node_id="n",
        address="n/w/0",
        region="r",
        slots=4,
        running=running,
        queued=0,
        models=(),
        epoch=1,
        sequence=sequence,
    )


def test_when_a_report_is_due() -> None:
    heard: list[HealthReport] = []
    somebody = [False]

    def send(told: HealthReport) -> bool:
        heard.append(told)
        return somebody[0]

    health = HealthReporter(5.0, 1, send)
    assert health.due(0, 0, 0.0), "the first"
    health.send(report(0, health.next_sequence()), 0.0)
    assert health.due(0, 0, 0.1), "nobody was there"
    somebody[0] = True
    health.send(report(0, health.next_sequence()), 0.1)
    assert [told.sequence for told in heard] == [1, 2]
    assert not health.due(0, 0, 5.0)
    assert health.due(0, 0, 5.1)
    assert not health.due(3, 0, 0.9), "the load alone, at most once a second"
    assert health.due(3, 0, 1.1)
    health.touch()
    assert health.due(0, 0, 0.2)


def test_models_of_one_name_are_told_apart_and_folders_are_not():
    card = ModelCard(name="m", version="1", engine="transformers", source="/here/m")
    elsewhere = msgspec.structs.replace(card, source="/there/m", created_s=7)
    assert digest_of(card) == digest_of(elsewhere)
    others = [
        msgspec.structs.replace(card, **changes)
        for changes in (
            {"dtype": "bfloat16"},
            {"context": 99},
            {"source": "package:m"},
            {"source": "artifact:sha256:" + "0" * 64},
        )
    ]
    assert len({digest_of(other) for other in [card, *others]}) == 5
    health = HealthReporter(5.0, 1, lambda report: True)
    health.loaded(card)
    assert health.cached == ("m@1",)
    assert health.digests(["m@1", "x@1"]) == (digest_of(card), "")
    health.keep(["x@1"])
    assert health.cached == ()
