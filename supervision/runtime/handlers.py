"""Handlers: which methods of an object answer which contracts, of whom, and how.

A contract's audience is declared where its handler stands. It is part of what an actor promises:
`docs/security.md` has the table of all of them, made from these declarations.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Final, TypeVar

from supervision.contracts import Contract
from supervision.runtime.address import Address
from supervision.security.audience import OWN, Audience

SYNC: Final = 0
ASYNC: Final = 1
STREAM: Final = 2

_Method = TypeVar("_Method", bound=Callable[..., Any])

#: A handler; SYNC, ASYNC or STREAM; the mask of its audience.
Entry = tuple[Callable[[Any, Address], Any], int, int]


def on(*contracts: type[Contract], of: Audience = OWN) -> Callable[[_Method], _Method]:
    """Marks the method `(self, msg, sender)` that answers these contracts, of processes of its own
    node and of whom `of` names besides. A plain or an async method returns the answer (None answers
    with nothing); an async generator is a stream."""
    if not contracts:
        raise TypeError("on() needs at least one contract class")
    declared = dict.fromkeys(contracts, of | OWN)

    def mark(method: _Method) -> _Method:
        method.__contracts__ = {**audiences_of(method), **declared}  # type: ignore[attr-defined]
        return method

    return mark


def audiences_of(method: object) -> dict[type[Contract], Audience]:
    """The contracts that `on` says `method` answers, and of whom."""
    return getattr(method, "__contracts__", {})


def handlers_of(actor: object) -> dict[type, Entry]:
    """The handlers that the class of `actor`, or of a part of one, marks with `on`; a subclass's
    method replaces the one of its base for the same contract.

    Raises:
        TypeError: one class marks two methods for the same contract.
    """
    found: dict[type, Entry] = {}
    for cls in reversed(type(actor).__mro__):
        here: dict[type, str] = {}
        for name, method in vars(cls).items():
            for contract, audience in audiences_of(method).items():
                if contract in here:
                    raise TypeError(
                        f"{cls.__name__} answers {contract.__name__} in {here[contract]} and "
                        f"in {name}: keep one"
                    )
                here[contract] = name
                bound = getattr(actor, name)
                found[contract] = (bound, _mode_of(bound), audience.mask)
    return found


def _mode_of(method: Callable[..., Any]) -> int:
    if inspect.isasyncgenfunction(method):
        return STREAM
    return ASYNC if inspect.iscoroutinefunction(method) else SYNC
