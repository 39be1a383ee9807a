"""What the name of a model stands for at this node, when other nodes' workers say it differently.

A model is its digest. The own workers say what it is here; then the catalog does, which comes from
control; then what is in use. What a worker says besides counts for none but itself: it isn't asked
for that model.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from actors.contracts import HealthReport, ModelCard
from actors.core.model_digest import digest_of


class ModelMeanings:
    """Digests by `name@version`, of one fleet after the other."""

    def __init__(self) -> None:
        self._catalog: dict[str, str] = {}
        self._used: dict[str, str] = {}

    def catalog(self, cards: Iterable[ModelCard]) -> bool:
        """These are offered, from now on; whether that is new."""
        said = {card.ref: digest_of(card) for card in cards}
        if said == self._catalog:
            return False
        self._catalog = said
        return True

    def settle(self, own: Iterable[HealthReport], others: Iterable[HealthReport]) -> None:
        """These are all workers, those of the others in the order in which they are believed where
        nobody knows better."""
        meant: dict[str, str] = {}
        for worker in own:
            meant.update(_digests(worker))
        for ref, digest in self._catalog.items():
            meant.setdefault(ref, digest)
        said = [pair for worker in others for pair in _digests(worker)]
        standing = set(said)
        for ref, digest in self._used.items():
            if (ref, digest) in standing:
                meant.setdefault(ref, digest)
        for ref, digest in said:
            meant.setdefault(ref, digest)
        self._used = meant

    def others(self, worker: HealthReport) -> frozenset[str]:
        """Its models that aren't what is called so here."""
        return frozenset(
            ref for ref, digest in _digests(worker) if self._used.get(ref, digest) != digest
        )


def without(worker: HealthReport, refs: frozenset[str]) -> HealthReport:
    """As if it had never spoken of these models. What belongs to the others stays theirs."""
    kept = [number for number, ref in enumerate(worker.models) if ref not in refs]

    def those(words: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(words[number] for number in kept if number < len(words))

    return replace(
        worker,
        models=those(worker.models),
        digests=those(worker.digests),
        abilities=those(worker.abilities),
        loadable=tuple(ref for ref in worker.loadable if ref not in refs),
        loading=tuple(ref for ref in worker.loading if ref not in refs),
    )


def _digests(worker: HealthReport) -> list[tuple[str, str]]:
    """Of its models, as far as it has said them."""
    pairs = zip(worker.models, worker.digests, strict=False)
    return [(ref, digest) for ref, digest in pairs if digest]
