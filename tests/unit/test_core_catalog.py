"""Which version a name stands for, and for whom."""

from __future__ import annotations

import pytest

from actors.contracts import Catalog, ModelCard, ModelPolicy, Stage
from actors.core.catalog import Index, current
from actors.errors import ModelNotFound


def card(version: str, stage: Stage = Stage.STABLE, at: float = 0.0, **policy: object) -> ModelCard:
    return ModelCard(
        name="m",
        version=version,
        engine="echo",
        stage=stage,
        stage_s=at,
        policy=ModelPolicy(**policy),  # type: ignore[arg-type]
    )


def index(*cards: ModelCard) -> Index:
    return Index(Catalog(version=1, models=cards))


def test_the_current_version_is_the_one_made_stable_last() -> None:
    cards = [card("3", at=5), card("2", at=9), card("4", Stage.CANARY, at=99)]
    assert current(cards)["m"].ref == "m@2"
    assert index(*cards).resolve("m").ref == "m@2"
    assert current([card("1", Stage.RETIRED), card("2", Stage.REGISTERED)]) == {}


def test_a_canary_gets_its_share_when_it_is_ready() -> None:
    both = index(card("1"), card("2", Stage.CANARY, canary_share=0.3))
    tokens = [f"token-{number}" for number in range(2000)]

    def share(ready: frozenset[str]) -> float:
        refs = [both.resolve("m", "acme", token, ready).ref for token in tokens]
        assert refs == [both.resolve("m", "acme", token, ready).ref for token in tokens]
        return refs.count("m@2") / len(refs)

    assert share(frozenset({"m@1"})) == 0.0
    assert 0.25 < share(frozenset({"m@1", "m@2"})) < 0.35
    assert both.resolve("m@2").ref == "m@2"


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_none_and_all(share: float) -> None:
    both = index(card("1"), card("2", Stage.CANARY, canary_share=share))
    refs = {both.resolve("m", "t", str(n), {"m@2"}).ref for n in range(200)}
    assert refs == {"m@2" if share else "m@1"}


def test_without_a_stable_version_the_canary_answers_all() -> None:
    assert index(card("2", Stage.CANARY, canary_share=0.0)).resolve("m").ref == "m@2"


def test_a_version_of_others_is_not_there() -> None:
    cards = (card("1", at=1), card("2", at=2, tenants=("acme",)))
    for tenant, ref in (("acme", "m@2"), ("other", "m@1")):
        assert index(*cards).resolve("m", tenant).ref == ref
    with pytest.raises(ModelNotFound):
        index(*cards).resolve("m@2", "other")
    assert [c.version for c in index(*cards).of_tenant("other").models] == ["1"]
    assert len(index(*cards).of_tenant("acme").models) == 2
    alone = index(card("1", tenants=("acme",)), card("2", Stage.CANARY, tenants=("beta",)))
    with pytest.raises(ModelNotFound):
        alone.resolve("m", "other", ready={"m@1", "m@2"})
    assert alone.resolve("m", "beta", ready={"m@2"}).ref == "m@2"


def test_a_name_means_its_newest_version() -> None:
    cards = tuple(
        ModelCard(name=name, version=version, engine="echo", created_s=created)
        for name, version, created in (
            ("a", "10", 5),
            ("a", "9", 5),
            ("a", "99", 1),
            ("b", "1", 0),
        )
    )
    index = Index(Catalog(version=1, models=cards))
    assert index.resolve("a").ref == "a@10"
    assert index.resolve("a@9").ref == "a@9"
    assert index.resolve("b").ref == "b@1"
    for unknown in ("c", "a@1", "a@", ""):
        with pytest.raises(ModelNotFound):
            index.resolve(unknown)
