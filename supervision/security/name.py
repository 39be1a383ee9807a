"""The name of a node or an operator, and the URI that stands for it in a certificate. Pure."""

from __future__ import annotations

import re
from typing import Final, Self

import msgspec

WORD: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"
#: How the name of an operator begins, where the id of a node stands otherwise; no node's id does.
OPERATOR: Final = "operator:"
_URI: Final = re.compile(rf"tether://({WORD})/(node|operator)/({WORD})")


class NodeName(msgspec.Struct, frozen=True):
    """A node of a cluster, or an operator of it, as a certificate says.

    Raises:
        ValueError: one of the two can't stand in an address.
    """

    cluster: str
    node: str

    def __post_init__(self) -> None:
        for word in (self.cluster, self.node.removeprefix(OPERATOR)):
            if not re.fullmatch(WORD, word):
                raise ValueError(
                    f"{word[:100]!r} is no name of a cluster or node: use up to 63 letters, digits "
                    "or ._-, and begin with a letter or digit"
                )

    @property
    def uri(self) -> str:
        if self.node.startswith(OPERATOR):
            return f"tether://{self.cluster}/operator/{self.node.removeprefix(OPERATOR)}"
        return f"tether://{self.cluster}/node/{self.node}"

    @classmethod
    def of(cls, uris: list[str]) -> Self | None:
        """The one node or operator that `uris` name; None if they name none, or more than one."""
        found = [match for match in map(_URI.fullmatch, uris) if match]
        if len(found) != 1:
            return None
        cluster, role, name = found[0].groups()
        return cls(cluster, name if role == "node" else OPERATOR + name)
