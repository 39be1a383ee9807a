"""The name of a node, and the URI that stands for it in a certificate. Pure."""

from __future__ import annotations

import re
from typing import Final, Self

import msgspec

WORD: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"
_NODE_URI: Final = re.compile(rf"tether://({WORD})/node/({WORD})")


class NodeName(msgspec.Struct, frozen=True):
    """A node of a cluster, as its certificate says.

    Raises:
        ValueError: one of the two can't stand in an address.
    """

    cluster: str
    node: str

    def __post_init__(self) -> None:
        for word in (self.cluster, self.node):
            if not re.fullmatch(WORD, word):
                raise ValueError(
                    f"{word[:100]!r} is no name of a cluster or node: use up to 63 letters, digits "
                    "or ._-, and begin with a letter or digit"
                )

    @property
    def uri(self) -> str:
        return f"tether://{self.cluster}/node/{self.node}"

    @classmethod
    def of(cls, uris: list[str]) -> Self | None:
        """The one node that `uris` name; None if they name none, or more than one."""
        found = [match for match in map(_NODE_URI.fullmatch, uris) if match]
        return cls(found[0][1], found[0][2]) if len(found) == 1 else None
