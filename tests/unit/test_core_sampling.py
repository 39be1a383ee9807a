"""Sampling of a request: its bounds, and a seed of its own."""

from __future__ import annotations

import math

import msgspec
import pytest

from actors.contracts import Sampling
from actors.core.sampling import seeded, validated
from supervision.errors import (
    BadRequest,
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
