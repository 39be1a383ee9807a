"""When a worker that is nowhere is due."""

from __future__ import annotations

import pytest

from actors.placer.absence import Absence


def test_what_was_never_seen_waits_until_others_were_heard() -> None:
    missing = Absence(settle_s=8, known_s=3)
    assert not missing.look("w", there=False, acting=True, now=0)
    assert not missing.look("w", there=False, acting=True, now=7.9)
    assert missing.look("w", there=False, acting=True, now=8)
    assert missing.look("w", there=False, acting=True, now=9), "it could not be placed"


def test_time_in_which_another_was_to_act_does_not_count() -> None:
    missing = Absence(settle_s=8, known_s=3)
    assert not missing.look("w", there=False, acting=False, now=0)
    assert not missing.look("w", there=False, acting=True, now=100)
    assert missing.look("w", there=False, acting=True, now=108)


def test_what_was_seen_is_due_sooner_and_counted_from_its_loss() -> None:
    missing = Absence(settle_s=8, known_s=3)
    assert not missing.look("w", there=True, acting=False, now=0)
    assert not missing.look("w", there=False, acting=False, now=10), "the leader died with it"
    assert not missing.look("w", there=False, acting=True, now=12)
    assert missing.look("w", there=False, acting=True, now=13)
    assert not missing.look("w", there=True, acting=True, now=14)
    assert not missing.look("w", there=False, acting=True, now=20)
    assert missing.look("w", there=False, acting=True, now=23)


def test_each_by_itself() -> None:
    missing = Absence(settle_s=1, known_s=0)
    missing.look("a", there=True, acting=True, now=0)
    assert missing.look("a", there=False, acting=True, now=0)
    assert not missing.look("b", there=False, acting=True, now=0)


def test_no_negative_times() -> None:
    with pytest.raises(ValueError, match="negative"):
        Absence(-1, 0)
