"""The interval of a median, without an assumption of how values spread."""

from __future__ import annotations

from random import Random
from statistics import median

from bench.beside import interval


def test_ten_values_are_held_by_the_second_and_the_ninth() -> None:
    low, high, held = interval([float(value) for value in range(10)])
    assert (low, high) == (1.0, 8.0)
    assert round(held, 4) == 0.9785


def test_few_values_hold_what_they_can() -> None:
    assert interval([1.0, 2.0]) == (1.0, 2.0, 0.5)
    low, high, held = interval([3.0, 1.0, 2.0, 5.0, 4.0])
    assert (low, high) == (1.0, 5.0)
    assert round(held, 4) == 0.9375


def test_it_holds_the_true_median_as_often_as_it_says() -> None:
    dice = Random(1)
    hit = 0
    for _ in range(2000):
        values = [dice.lognormvariate(0.0, 0.3) for _ in range(10)]
        low, high, _ = interval(values)
        hit += low <= 1.0 <= high
        assert low <= median(values) <= high
    assert 0.96 < hit / 2000 < 0.99
