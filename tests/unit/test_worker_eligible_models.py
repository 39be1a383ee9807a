"""What of the catalog a worker may run."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from actors.contracts import ModelCard, ModelPolicy, Stage
from actors.contracts.catalog import Slo, Warming
from actors.worker.eligible_models import at_home, identity, suits, wishes
from actors.worker.model_state import Rank


def card(version: str = "1", **fields: Any) -> ModelCard:
    return ModelCard(**({"name": "m", "version": version, "engine": "echo"} | fields))


def can(made: ModelCard, *patterns: str, runnable: bool = True) -> bool:
    return suits(
        made, patterns=patterns or ("*",), region="eu", gpu_class="a100",
        runnable=lambda _: runnable,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("made", "suitable"),
    [
        (card(), True),
        (card(stage=Stage.CANARY), True),
        (card(stage=Stage.REGISTERED), False),
        (card(stage=Stage.RETIRED), False),
        (card(policy=ModelPolicy(regions=("eu", "us"))), True),
        (card(policy=ModelPolicy(regions=("us",))), False),
        (card(gpu_class="a100"), True),
        (card(gpu_class="h100"), False),
    ],
)
def test_offered_here_and_for_such_a_gpu(made: ModelCard, suitable: bool) -> None:
    assert can(made) is suitable


def test_by_name_by_version_or_all_and_only_with_its_engine() -> None:
    assert [can(card(), p) for p in ("m", "m@1", "*", "m@2", "n")] == [True] * 3 + [False] * 2
    assert not can(card(), runnable=False)


def test_ranks_and_pins() -> None:
    cards = [
        card("1", stage_s=1.0),
        card("2", stage_s=3.0, memory_mib=5),
        card("3", stage_s=2.0, policy=ModelPolicy(warm=Warming.ALWAYS)),
        card("4", stage=Stage.CANARY),
    ]
    made = wishes(cards, pinned=("m@1",), size=lambda _: 7)
    assert [w.rank for w in made] == [Rank.OTHER, Rank.CURRENT, Rank.OTHER, Rank.CANARY]
    assert [w.pinned for w in made] == [True, False, True, False]
    assert [(w.size, w.certain) for w in made] == [(7, False), (5 << 20, True)] + [(7, False)] * 2


def test_what_is_loaded_anew_when_it_changes() -> None:
    before = card()
    for same in (
        {"policy": ModelPolicy(slo=Slo.BATCH)},
        {"stage": Stage.CANARY, "stage_s": 4.0},
        {"created_s": 4, "memory_mib": 9, "gpu_class": "x"},
    ):
        assert identity(msgspec.structs.replace(before, **same)) == identity(before)
    for other in ({"source": "/x"}, {"adapter": "/x"}, {"context": 9}, {"dtype": "bfloat16"}):
        assert identity(msgspec.structs.replace(before, **other)) != identity(before)


def test_a_folder_is_where_this_node_has_it_and_an_artifact_where_the_catalog_says() -> None:
    mine = {"m@1": card(source="/here", adapter="/a")}
    there = card(source="/there", adapter="artifact:x", stage=Stage.CANARY)
    assert at_home(there, mine) == msgspec.structs.replace(there, source="/here")
    artifact = card(source="artifact:y")
    assert at_home(artifact, mine) == artifact
    assert at_home(card("2", source="/there"), mine).source == "/there"
