"""The messages about Thespian's convention, which an Admin answers. Pure."""

from __future__ import annotations

from supervision.contracts.contract import Contract


class ShowConvention(Contract, frozen=True):
    """→ Admin: the `ConventionShown` of Thespian's convention that it is of."""


class ConventionShown(Contract, frozen=True):
    """`leader` is the id of the node that leads, as far as this one knows; `members` are the others
    that it knows of."""

    leader: str = ""
    members: tuple[str, ...] = ()
