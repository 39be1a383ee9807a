"""Options of the roster, checked when made."""

from __future__ import annotations

from typing import Any

import pytest

from actors.roster import OtherNode, RosterOptions
from actors.roster.membership import MembershipOptions


@pytest.mark.parametrize(
    "wrong",
    [
        {"suspect_s": 20.0},
        {"max_workers": 0},
        {"announce_s": 10.0},
        {"announce_s": 0.0},
        {"others": (OtherNode(id="n1", admin_port=1),)},
        {"others": (OtherNode(id="n2", admin_port=1),) * 2},
    ],
)
def test_options_are_validated(wrong: dict[str, Any]):
    with pytest.raises(ValueError):
        RosterOptions(**wrong)
    RosterOptions(membership=MembershipOptions(suspect_s=30, expiry_s=40), announce_s=10.0)
