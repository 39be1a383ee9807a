"""A gateway's view of the fleet: the models, and which workers answer for them."""

from __future__ import annotations

from actors.contracts import Catalog, Fleet, WatchCatalog, WatchFleet
from actors.core.catalog import Index
from supervision.child import Supervised
from supervision.follower import Follower


class FleetView:
    """Follows registry and roster. `ready` are the refs of the catalog that some living worker
    has answered for."""

    def __init__(self, actor: Supervised) -> None:
        self._actor = actor
        self.index = Index(Catalog(version=0, models=()))
        self.ready: tuple[str, ...] = ()
        self.silent: frozenset[str] = frozenset()
        """Addresses of workers that the roster has just given up."""
        self.alive: frozenset[str] = frozenset()
        """The refs of all that living workers answer for."""
        self.abilities: dict[str, frozenset[str]] = {}
        """What those of each ref can do, as far as they say it."""
        self._workers: dict[str, tuple[str, ...]] = {}  # what they answer for, by address

    def follow(self) -> Follower:
        """Begin; the follower of the catalog tells when it is known."""
        catalog = Follower(self._actor, "control/registry", WatchCatalog(), self._see_catalog)
        fleet = Follower(self._actor, "control/roster", WatchFleet(), self._see_fleet)
        self._actor.background(catalog.run(), name="catalog")
        self._actor.background(fleet.run(), name="fleet")
        return catalog

    def cold(self, address: str, ref: str) -> bool:
        """The worker there is known, and doesn't answer for this model (yet)."""
        return ref not in self._workers.get(address, (ref,))

    def take_silent(self) -> frozenset[str]:
        """The workers given up since the last call."""
        silent, self.silent = self.silent, frozenset()
        return silent

    def _see_catalog(self, catalog: Catalog) -> None:
        self.index = Index(catalog)
        self._fit()

    def _see_fleet(self, fleet: Fleet) -> None:
        self.alive = frozenset(
            model for worker in fleet.workers if not worker.draining for model in worker.models
        )
        self.abilities = {}
        for worker in fleet.workers:
            for ref, can in zip(worker.models, worker.abilities, strict=False):
                if not (said := frozenset(can.split())):
                    continue
                self.abilities[ref] = self.abilities.get(ref, said) | said
        workers = {worker.address: worker.models for worker in fleet.workers}
        self.silent = (self.silent | self._workers.keys()) - workers.keys()
        self._workers = workers
        self._fit()

    def _fit(self) -> None:
        models = self.index.catalog.models
        self.ready = tuple(card.ref for card in models if card.ref in self.alive)
