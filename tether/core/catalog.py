"""The models that may be asked for, by name and by full name."""

from __future__ import annotations

import re

from tether.contracts import Catalog, ModelCard
from tether.errors import ModelNotFound

_NUMBER = re.compile(r"(\d+)")


def newer(card: ModelCard) -> tuple[int, list[tuple[int, int | str]]]:
    """Sorts versions of one model: by creation, then by version with numbers as numbers."""
    parts: list[tuple[int, int | str]] = [
        (1, int(part)) if part.isdigit() else (0, part)
        for part in _NUMBER.split(card.version)
        if part
    ]
    return card.created_s, parts


class Index:
    """A `Catalog` made for look-ups."""

    __slots__ = ("_by_name", "catalog")

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self._by_name: dict[str, ModelCard] = {}
        for card in sorted(catalog.models, key=newer):
            self._by_name[card.name] = card
            self._by_name[card.ref] = card

    def resolve(self, model_ref: str) -> ModelCard:
        """The card of `name@version`, or of the newest version of `name`.

        Raises:
            ModelNotFound: nobody offers it.
        """
        card = self._by_name.get(model_ref)
        if card is None:
            raise ModelNotFound(
                f"no model is called {model_ref!r}; GET /v1/models lists those that are",
                param="model",
            )
        return card
