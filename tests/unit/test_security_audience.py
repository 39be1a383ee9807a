"""Audiences and peers as sets of bits."""

from __future__ import annotations

import pytest

from actors.core.node_roles import CONTROL, DOOR, WORKER, Role
from supervision.security import audience
from supervision.security.audience import NODE, OPERATOR, OWN, PLACER, Audience, mask_of


def test_who_is_of_which_audience():
    worker = mask_of([WORKER], placed=False)
    assert Role.WORKER.admits(worker)
    assert (Role.CONTROL | Role.WORKER).admits(worker)
    assert NODE.admits(worker)
    for other in (OWN, PLACER, OPERATOR, Role.CONTROL, Role.DOOR):
        assert not other.admits(worker)
    assert PLACER.admits(mask_of([WORKER], placed=True))
    both = mask_of([DOOR, CONTROL], placed=False)
    assert Role.DOOR.admits(both)
    assert Role.CONTROL.admits(both)


def test_without_roles_a_node_is_nobody():
    assert mask_of([], placed=False) == mask_of([], placed=True) == 0


def test_an_audience_says_whom_it_is_for():
    own = "processes of its own node"
    assert str(OWN) == own
    assert str(OWN | OPERATOR | PLACER) == (f"{own}, of the node that has placed it and operators")
    assert (
        str(OWN | Role.WORKER | Role.CONTROL)
        == f"{own} and of nodes with the role control or worker"
    )
    assert str(OWN | NODE | Role.DOOR) == f"{own} and of all nodes of the cluster"


def test_roles_that_nobody_knows_admit_nobody_and_are_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(audience, "_bits", dict(audience._bits))
    many = [f"r{n}" for n in range(100)]
    masks = [mask_of([name], placed=False) for name in many]
    assert not any((Role.DOOR | Role.CONTROL | Role.WORKER).admits(mask) for mask in masks)
    assert len(audience._bits) == audience.MAX_KNOWN
    with pytest.raises(ValueError, match="one role too many"):
        audience.role("another")
    assert Audience(masks[-1]).roles == ()
