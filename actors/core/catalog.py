"""The index of the catalog: which models may be asked for, and which version a name means. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from zlib import crc32

from actors.contracts import Catalog, ModelCard, Stage
from actors.errors import ModelNotFound

_NUMBER = re.compile(r"(\d+)")
_NOBODY: frozenset[str] = frozenset()


def newer(card: ModelCard) -> tuple[int, list[tuple[int, int | str]]]:
    """Sorts versions of one model: by creation, then by version with numbers as numbers."""
    parts: list[tuple[int, int | str]] = [
        (1, int(part)) if part.isdigit() else (0, part)
        for part in _NUMBER.split(card.version)
        if part
    ]
    return card.created_s, parts


def current(cards: Iterable[ModelCard]) -> dict[str, ModelCard]:
    """What each name stands for: its stable version that was made so last; of those that were at
    the same time, the newest. A name without a stable version isn't there."""
    stable = (card for card in cards if card.stage is Stage.STABLE)
    return {card.name: card for card in sorted(stable, key=lambda c: (c.stage_s, newer(c)))}


def permits(card: ModelCard, tenant_id: str) -> bool:
    """May this tenant use it, and know of it?"""
    return not card.policy.tenants or tenant_id in card.policy.tenants


class Index:
    """A `Catalog` made for look-ups. To a tenant who may not use a version it isn't there."""

    __slots__ = ("_by_ref", "_canaries", "_current", "_restricted", "catalog")

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self._by_ref = {card.ref: card for card in catalog.models}
        self._current = current(catalog.models)
        self._canaries = {card.name: card for card in catalog.models if card.stage is Stage.CANARY}
        self._restricted = {card.name for card in catalog.models if card.policy.tenants}

    def resolve(
        self,
        model_ref: str,
        tenant_id: str = "",
        token: str = "",
        ready: Collection[str] = _NOBODY,
    ) -> ModelCard:
        """The card of `name@version`, or the version that `name` stands for: the current one, or
        for a share of the requests its canary, once that is among the `ready` refs. The same
        `token` of a tenant goes to the same version as long as the share stays.

        Raises:
            ModelNotFound: nobody offers it to this tenant.
        """
        card = self._by_ref.get(model_ref)
        if card is None:
            if model_ref in self._canaries or model_ref in self._restricted:
                card = self._version(model_ref, tenant_id, token, ready)
            else:
                card = self._current.get(model_ref)
        if card is None or not permits(card, tenant_id):
            raise ModelNotFound(
                f"no model is called {model_ref!r}; GET /v1/models lists those that are",
                param="model",
            )
        return card

    def of_tenant(self, tenant_id: str) -> Catalog:
        """The part of the catalog that this tenant may use."""
        if not self._restricted:
            return self.catalog
        models = tuple(card for card in self.catalog.models if permits(card, tenant_id))
        return Catalog(version=self.catalog.version, models=models)

    def _version(
        self, name: str, tenant_id: str, token: str, ready: Collection[str]
    ) -> ModelCard | None:
        """The slow road, for names with a canary or with versions that are not for everybody."""
        stable = self._current.get(name)
        if stable is not None and not permits(stable, tenant_id):
            stable = current(self._of(name, tenant_id)).get(name)
        canary = self._canaries.get(name)
        if canary is None or not permits(canary, tenant_id):
            return stable
        if stable is None:
            return canary  # there is nobody else to compare it with
        if canary.ref not in ready:
            return stable
        chance = crc32(f"{name}\0{tenant_id}\0{token}".encode()) / 2**32
        return canary if chance < canary.policy.canary_share else stable

    def _of(self, name: str, tenant_id: str) -> Iterator[ModelCard]:
        return (c for c in self.catalog.models if c.name == name and permits(c, tenant_id))
