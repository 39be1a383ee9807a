"""Nodes that speak no version of the wire that this process does, so that each is logged once."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from supervision.telemetry import bounds

MAX_STRANGERS: Final = 256  # the one that was seen first is forgotten, and logged anew

_used = bounds.used.labels("wire_strangers")


class RefusedPeers:
    """By node, with the version that it speaks. They dial again every few seconds."""

    def __init__(self) -> None:
        self._versions: OrderedDict[str, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._versions)

    def new(self, node: str, version: int) -> bool:
        """Remember it; false if that is known already."""
        if self._versions.get(node) == version:
            return False
        self._versions[node] = version
        if len(self._versions) > MAX_STRANGERS:
            self._versions.popitem(last=False)
        _used.set(len(self._versions))
        return True

    def forget(self, node: str) -> None:
        """It is understood now."""
        if self._versions.pop(node, None) is not None:
            _used.set(len(self._versions))
