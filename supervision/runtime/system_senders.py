"""Who may say which of Thespian's messages, and what of it must be about the sender.

The sender is the process at the other end of the connection: its node is the one that the
certificate of that connection names, never one that a message names. Processes of the own node may
say everything; what those of another node may stands in `supervision.runtime.system_messages`.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

import msgspec

from supervision.runtime.address import ADMIN, Address


class Others(Enum):
    """Which processes of other nodes may say it."""

    NONE = "none"
    ADMINS = "the Admin of a node"
    GUARDIAN = "the node that had the actor placed here"


class Circumstances(msgspec.Struct, frozen=True):
    """Of a message from another node: who sends it, to whom, and for which node the receiver was
    placed here; empty if for the own one."""

    sender: Address
    here: Address
    guardian: str


Check = Callable[[Any, Circumstances], str]  # what is wrong, or nothing


def is_sender(field: str) -> Check:
    """The address in `field` is the sender's own."""

    def check(message: Any, told: Circumstances) -> str:
        address = getattr(message, field).addressDetails
        return "" if address == told.sender else f"it speaks for {address}"

    return check


def of_sender(field: str) -> Check:
    """The address in `field`, if there is one, is of the sender's node."""

    def check(message: Any, told: Circumstances) -> str:
        place = getattr(message, field)
        if place is None or place.addressDetails.node == told.sender.node:
            return ""
        return f"it speaks of {place.addressDetails}"

    return check


def not_of_receiver(field: str) -> Check:
    """There is an address in `field`, and it isn't of the receiver's node: else a process of that
    node would be told something by its own Admin that another node has made up."""

    def check(message: Any, told: Circumstances) -> str:
        place = getattr(message, field)
        if place is not None and place.addressDetails.node != told.here.node:
            return ""
        return f"it asks for {place and place.addressDetails}"

    return check


def nothing_in(field: str) -> Check:
    """`field` is empty or false: that is for processes of the own node to say."""

    def check(message: Any, told: Circumstances) -> str:
        return f"it sets {field.lstrip('_')}" if getattr(message, field) else ""

    return check


def refusal(others: Others, checks: tuple[Check, ...], message: Any, told: Circumstances) -> str:
    """Why `message` must not be taken from another node; nothing if it may."""
    if others is Others.NONE:
        return "it is for processes of the own node alone"
    if others is Others.ADMINS and told.sender.name != ADMIN:
        return "it is for Admins alone"
    if others is Others.GUARDIAN and told.sender.node != told.guardian:
        return "this process wasn't placed here for that node"
    return next((why for check in checks if (why := check(message, told))), "")
