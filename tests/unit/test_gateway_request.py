"""The small decisions: sampling, catalog, key cache, verdicts, quota, coalescing."""

from __future__ import annotations

import math

import msgspec
import pytest

from actors.contracts import Catalog, ModelCard, Sampling
from actors.core.catalog import Index
from actors.core.sampling import seeded, validated
from actors.errors import ContextExceeded, ModelNotFound, WorkerLost
from actors.gateway.attempts import verdict
from actors.gateway.keycache import KeyCache
from actors.worker.coalescer import Coalescer
from actors.worker.slot_limiter import QuotaGuard
from supervision.errors import (
    BadRequest,
    Cancelled,
    DeadlineExceeded,
    Internal,
    Overloaded,
    PeerLost,
    TetherError,
)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", 0),
        ("max_tokens", -3),
        ("max_tokens", 2049),
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("temperature", math.nan),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("top_p", math.nan),
        ("stop", ("a", "b", "c", "d", "e")),
        ("stop", ("",)),
        ("stop", ("x" * 2000,)),
        ("seed", 1 << 63),
        ("seed", -(1 << 63) - 1),
    ],
)
def test_sampling_out_of_range_names_its_parameter(field: str, value: object) -> None:
    with pytest.raises(BadRequest) as caught:
        validated(msgspec.structs.replace(Sampling(), **{field: value}), 2048)
    assert caught.value.param == field


def test_the_edges_of_sampling_are_fine() -> None:
    for sampling in (
        Sampling(max_tokens=1, temperature=0, top_p=1, seed=-(1 << 63), stop=("a",) * 4),
        Sampling(max_tokens=2048, temperature=2, top_p=1e-9, seed=(1 << 63) - 1),
    ):
        assert validated(sampling, 2048) is sampling


def test_a_drawn_seed_is_the_requests_own() -> None:
    first = seeded(Sampling(), "acme", "token")
    assert first == seeded(Sampling(), "acme", "token")
    assert first.seed is not None
    assert 0 <= first.seed < 1 << 63
    assert len({seeded(Sampling(), t, k).seed for t in "ab" for k in "cd"}) == 4
    assert seeded(Sampling(seed=5), "acme", "token").seed == 5


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


def test_known_and_unknown_keys_are_remembered_for_a_while() -> None:
    cache: KeyCache[str] = KeyCache(bound=2, present_s=60, absent_s=5)
    assert cache.get(b"a", 0.0) == (False, None)
    cache.put(b"a", "acme", 0.0)
    cache.put(b"b", None, 0.0)
    assert cache.get(b"a", 59.9) == (True, "acme")
    assert cache.get(b"b", 4.9) == (True, None)
    assert cache.get(b"b", 5.0) == (False, None)
    assert cache.get(b"a", 60.0) == (False, None)


def test_the_key_cache_forgets_the_least_used_and_whatever_it_is_told() -> None:
    cache: KeyCache[str] = KeyCache(bound=2)
    cache.put(b"a", "a", 0.0)
    cache.put(b"b", "b", 0.0)
    cache.get(b"a", 1.0)
    cache.put(b"c", "c", 1.0)
    assert cache.get(b"b", 1.0) == (False, None)
    cache.forget(b"a")
    assert cache.get(b"a", 1.0) == (False, None)
    cache.forget()
    assert len(cache) == 0


@pytest.mark.parametrize(
    ("error", "waited_s", "began", "expected"),
    [
        (None, 0.0, True, (True, False)),
        (ContextExceeded("x"), 0.0, False, (True, False)),
        (Cancelled("x"), 0.0, False, (True, True)),
        (Overloaded("x"), 0.0, False, (False, True)),
        (PeerLost("x"), 0.0, True, (False, True)),
        (WorkerLost("x"), 0.0, False, (False, False)),
        (Internal("x"), 0.0, True, (False, False)),
        (DeadlineExceeded("x"), 0.1, False, (True, True)),
        (DeadlineExceeded("x"), 60.0, True, (True, True)),
        (DeadlineExceeded("x"), 60.0, False, (False, False)),
    ],
)
def test_what_an_end_says_about_the_worker(
    error: TetherError | None, waited_s: float, began: bool, expected: tuple[bool, bool]
) -> None:
    assert verdict(error, waited_s=waited_s, began=began) == expected


def test_who_still_loads_the_model_has_not_hung() -> None:
    late = DeadlineExceeded("late")
    assert verdict(late, waited_s=60.0, began=False) == (False, False)
    assert verdict(late, waited_s=60.0, began=False, cold=True) == (True, True)


def test_quota_runs_queues_and_sheds() -> None:
    guard: QuotaGuard[str] = QuotaGuard(slots=1, queue=2)
    assert guard.admit("a")
    assert not guard.admit("b")
    assert not guard.admit("c")
    with pytest.raises(Overloaded, match="all 1 slots run and 2 requests wait"):
        guard.admit("d")
    assert guard.forget("b")
    assert not guard.forget("b")
    assert guard.leave() == "c"
    assert (guard.running, guard.queued) == (1, 0)
    assert guard.leave() is None
    assert guard.running == 0
    with pytest.raises(ValueError, match="slots"):
        QuotaGuard(slots=0, queue=1)


def test_the_first_chunk_leaves_at_once_and_later_ones_within_the_window() -> None:
    coalescer = Coalescer(window_s=0.02, max_characters=100)
    assert coalescer.due(1, 5.0)
    coalescer.left(5.0)
    assert not coalescer.due(1, 5.01)
    assert coalescer.due(100, 5.01)
    assert coalescer.due(1, 5.021)
