"""The base of all messages: what every contract has in common.

A *contract* is a frozen msgspec Struct that travels as one MessagePack array, its first
item the name of its class. Release N+1 may append fields that have a default, and nothing
else: msgspec ignores items that it doesn't know and fills in those that are missing, so
two adjacent releases talk. A change of another kind raises the versions of the wire
(`supervision.runtime.wire`), so that an older peer is refused before it reads anything. All
contracts form one tagged union; the runtime's codec builds its decoder from `known()`.

Pure.
"""

from __future__ import annotations

import msgspec


class Value(msgspec.Struct, frozen=True, array_like=True, kw_only=True, gc=False):
    """A part of a contract; never sent alone."""


class Contract(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag=True, gc=False):
    """A message between two actors. Imperative when it asks (`Place`), past when it
    answers (`Placed`)."""


class ControlMessage(Contract, frozen=True):
    """A contract of operators and supervisors: an actor takes it while it is suspended, too."""


def known() -> tuple[type[Contract], ...]:
    """All contracts imported so far, in a stable order (by name).

    Raises:
        TypeError: two contracts share a name, so a tag would be ambiguous.
    """
    found: dict[str, type[Contract]] = {}
    pending: list[type[Contract]] = [Contract]
    while pending:
        for cls in pending.pop().__subclasses__():
            pending.append(cls)
            if cls is ControlMessage:
                continue  # a kind of contract, and none itself
            if cls.__name__ in found:
                raise TypeError(
                    f"two contracts are called {cls.__name__}: "
                    f"in {found[cls.__name__].__module__} and {cls.__module__}; rename one"
                )
            found[cls.__name__] = cls
    return tuple(found[name] for name in sorted(found))
