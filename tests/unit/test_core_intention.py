"""A bare word of an operator becomes a move that may be asked again."""

from __future__ import annotations

import pytest

from actors.contracts import ModelCard, ModelsShown, Stage
from actors.contracts.catalog import Move
from actors.core.intention import meant


def shown(current: str = "", unlisted: tuple[str, ...] = (), **stages: Stage) -> ModelsShown:
    cards = tuple(
        ModelCard(name="m", version=version.removeprefix("v"), engine="echo", stage=stage)
        for version, stage in stages.items()
    )
    return ModelsShown(
        models=cards, current=(current,) if current else (), revision=7, unlisted=unlisted
    )


@pytest.mark.parametrize(
    ("stage", "to"),
    [
        (Stage.REGISTERED, "canary"),
        (Stage.CANARY, "stable"),
        (Stage.STABLE, "stable"),
        (Stage.RETIRED, "stable"),  # the registry refuses it
    ],
)
def test_promoted_is_to_the_next_stage(stage: Stage, to: str) -> None:
    move = meant(shown(v1=stage), "m@1", Move.PROMOTE, by="me")
    assert (move.ref, move.to, move.by, move.revision) == ("m@1", to, "me", 7)
    assert meant(shown(v1=stage), "m@1", Move.PROMOTE, to="canary").to == "canary"
    assert meant(shown(v1=stage), "m@2", Move.PROMOTE).to == ""


def test_a_name_is_rolled_back_by_its_canary_or_else_its_current_version() -> None:
    both = shown("m@1", v1=Stage.STABLE, v2=Stage.CANARY)
    assert meant(both, "m", Move.ROLLBACK).ref == "m@2"
    left = shown("m@1", unlisted=("m@2",), v1=Stage.STABLE, v2=Stage.CANARY)
    assert meant(left, "m", Move.ROLLBACK).ref == "m@1"
    assert meant(both, "m@1", Move.ROLLBACK).ref == "m@1"
    assert meant(shown(v1=Stage.REGISTERED), "m", Move.ROLLBACK).ref == "m"


def test_force_is_said_on() -> None:
    assert meant(shown(v1=Stage.STABLE), "m@1", Move.RETIRE, force=True).force
