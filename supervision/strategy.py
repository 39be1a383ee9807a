"""Which children are restarted together, and when a supervisor ends by itself. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum


class Strategy(StrEnum):
    """Who is restarted when one child has died (Erlang/OTP, `supervisor`)."""

    ONE_FOR_ONE = "one_for_one"  # that child alone
    ONE_FOR_ALL = "one_for_all"  # all of them
    REST_FOR_ONE = "rest_for_one"  # that child and those started after it


class AutoShutdown(StrEnum):
    """When a supervisor ends because a significant child has ended by itself."""

    NEVER = "never"  # it doesn't
    ANY_SIGNIFICANT = "any_significant"  # with the first of them
    ALL_SIGNIFICANT = "all_significant"  # with the last of them


def affected(strategy: Strategy, ids: Sequence[str], died: str) -> tuple[str, ...]:
    """The ids to restart, in start order, when `died` has to be restarted.

    `ids` are all children in start order.

    Raises:
        ValueError: `died` is none of `ids`.
    """
    at = ids.index(died)
    match strategy:
        case Strategy.ONE_FOR_ONE:
            return (died,)
        case Strategy.ONE_FOR_ALL:
            return tuple(ids)
        case Strategy.REST_FOR_ONE:
            return tuple(ids[at:])
