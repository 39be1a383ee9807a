"""The models that a worker may run: the versions that suit it, and how they rank. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

import msgspec

from actors.contracts import ModelCard, ModelPolicy, Stage
from actors.contracts.catalog import Warming
from actors.core.catalog import current
from actors.worker.model_state import Rank, Wish

ALL: Final = "*"
_MIB: Final = 1 << 20


def matches(pattern: str, card: ModelCard) -> bool:
    """`*` is all models, `name` all versions of one, `name@version` that version."""
    return pattern in (ALL, card.name, card.ref)


def suits(
    card: ModelCard,
    *,
    patterns: Iterable[str],
    region: str,
    gpu_class: str,
    runnable: Callable[[ModelCard], bool],
) -> bool:
    """Is it offered, meant for such a worker, and can its engine run there?"""
    return (
        card.stage.offered
        and any(matches(pattern, card) for pattern in patterns)
        and (not card.policy.regions or region in card.policy.regions)
        and card.gpu_class in ("", gpu_class)
        and runnable(card)
    )


def at_home(card: ModelCard, own: Mapping[str, ModelCard]) -> ModelCard:
    """`card` of the catalog with the folders that this node's configuration names: another node has
    its own elsewhere."""
    mine = own.get(card.ref)
    if mine is None or mine.engine != card.engine:
        return card
    fields = {
        field: getattr(mine, field)
        for field in ("source", "adapter")
        if _folder(getattr(card, field)) and _folder(getattr(mine, field))
    }
    return msgspec.structs.replace(card, **fields)


def wishes(
    cards: Iterable[ModelCard],
    *,
    pinned: Iterable[str] = (),
    size: Callable[[ModelCard], int] = lambda card: 0,
) -> tuple[Wish, ...]:
    """What a pool is to wish for; `size` estimates the bytes of a card that doesn't say."""
    kept = tuple(cards)
    pins = tuple(pinned)
    now = current(kept)
    return tuple(
        Wish(
            ref=card.ref,
            identity=identity(card),
            size=card.memory_mib * _MIB or size(card),
            certain=card.memory_mib > 0,
            rank=Rank.CANARY
            if card.stage is Stage.CANARY
            else Rank.CURRENT
            if now.get(card.name) is card
            else Rank.OTHER,
            pinned=card.policy.warm is Warming.ALWAYS or any(matches(pin, card) for pin in pins),
        )
        for card in kept
    )


def identity(card: ModelCard) -> ModelCard:
    """What must be loaded anew when it changes: all but what is said of its place and use."""
    return msgspec.structs.replace(
        card,
        created_s=0,
        stage=Stage.STABLE,
        stage_s=0.0,
        policy=ModelPolicy(),
        gpu_class="",
        memory_mib=0,
    )


def _folder(source: str) -> bool:
    return bool(source) and not source.startswith(("artifact:", "package:"))
