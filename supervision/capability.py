"""Capabilities that a node has, and that an actor requires of the node it runs on. Pure."""

from __future__ import annotations

from collections.abc import Mapping

Capability = str | int | float | bool


def meets(capabilities: Mapping[str, object], requires: Mapping[str, Capability]) -> bool:
    """Is all that is required there: equal, or for numbers at least as much?"""
    return all(_enough(capabilities.get(key), wanted) for key, wanted in requires.items())


def named(requires: Mapping[str, Capability]) -> str:
    """The requirements in words, for a sentence."""
    return ", ".join(f"{key} {value}" for key, value in requires.items()) or "room for it"


def _enough(found: object, wanted: Capability) -> bool:
    if isinstance(wanted, bool) or isinstance(found, bool):
        return found is wanted
    if isinstance(wanted, int | float):
        return isinstance(found, int | float) and found >= wanted
    return found == wanted
