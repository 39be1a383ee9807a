"""The actor that keeps the catalog of models, in PostgreSQL and for whoever watches."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import nullcontext
from typing import ClassVar, Final

import asyncpg
import msgspec

from actors.artifacts.options import ArtifactOptions
from actors.contracts import (
    Catalog,
    Command,
    ModelCard,
    ModelChange,
    ModelsChanged,
    ModelsShown,
    MoveModel,
    RegisterModel,
    ShowModels,
    WatchCatalog,
)
from actors.core.catalog import current
from actors.core.lifecycle import VersionSet
from actors.core.node_roles import Role
from actors.core.version import Version, VersionStep, check
from actors.registry import metrics
from actors.registry.artifact_check import artifacts_of, vouched
from actors.registry.budget_records import BudgetRecords
from actors.stores import models
from actors.stores.database import Database
from actors.stores.keys import DatabaseConnection
from supervision.child import Supervised
from supervision.errors import BadRequest, Overloaded, TetherError, Unavailable
from supervision.runtime import Address, on
from supervision.security.audience import OPERATOR, OWN
from supervision.telemetry import bounds, logs

PATIENCE_S: Final = 20.0  # with PostgreSQL, at the start
CONNECTIONS: Final = 4
LOOKING: Final = 2  # registrations that hold one while they look at weights
ROSTER: Final = "control/roster"
TELL_S: Final = 10.0  # for the nodes to say that they have heard; nobody waits for it
MAX_REF: Final = 256  # characters

log = logs.get(__name__)
_used = bounds.used.labels("registry_models")
_refused = bounds.refused.labels("registry_models")


class RegistryOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`catalog` is what the configuration offers; `dsn` is PostgreSQL's. What is registered by
    `artifact:` must be at the replicas of `artifacts`, and signed as they say. Every `reread_s` the
    catalog is read again, in case nobody could tell of a change.

    Raises:
        ValueError: two cards share a ref, or the pause isn't above 0.
    """

    dsn: str
    catalog: tuple[ModelCard, ...] = ()
    artifacts: ArtifactOptions = ArtifactOptions()
    reread_s: float = 30.0

    def __post_init__(self) -> None:
        if len({card.ref for card in self.catalog}) != len(self.catalog):
            raise ValueError("two models of the catalog share name and version")
        if not self.reread_s > 0:
            raise ValueError(f"reread_s of the registry must be above 0, not {self.reread_s}")


class Registry(Supervised):
    """Enters the configured models into PostgreSQL, moves versions from stage to stage, and streams
    the `Catalog`. Models that only PostgreSQL knows, from an older configuration, stay there for
    the ledger's sake and aren't offered."""

    Options: ClassVar[type[msgspec.Struct]] = RegistryOptions

    async def start(self, options: RegistryOptions) -> None:
        self._options = options
        self._listed = frozenset(card.ref for card in options.catalog)
        self._news = asyncio.Event()
        self._reading = asyncio.Lock()
        self._looking = asyncio.Semaphore(LOOKING)
        self._database = Database(options.dsn, size=CONNECTIONS)
        self.serve(BudgetRecords(self, self._database))
        try:
            await self._database.open(PATIENCE_S)
            await self._database.transact(self._enter)
            self._catalog = Catalog(version=0, models=())
            await self._read()
        except BaseException:
            await self._database.close()
            raise
        self.background(self._reread(), name="reread")

    async def stop(self, deadline_s: float) -> None:
        await self._database.close()

    async def _enter(self, connection: asyncpg.Connection) -> None:
        await models.lock(connection)
        shelf = await self._shelf(connection)
        await models.write(connection, shelf.enter(self._options.catalog, time.time()))

    async def _shelf(self, connection: DatabaseConnection, *refs: str) -> VersionSet:
        """All that isn't retired, and what is named."""
        return VersionSet(await models.listed(connection, (*self._listed, *refs)), self._listed)

    # ---- what operators ask

    @on(RegisterModel, of=OPERATOR)
    async def register(self, msg: RegisterModel, sender: Address) -> ModelsShown:
        """
        Raises:
            BadRequest: the card can't be one.
            ArtifactRefused, ArtifactLost: its weights aren't signed as they must be, or not there.
            ModelConflict: there is another one of this name and version.
        """
        check(msg.card)
        by, found = msg.by or sender.node, artifacts_of(msg.card)

        async def work(connection: asyncpg.Connection) -> ModelsShown:
            if found:
                if not await models.hold_artifacts(connection):
                    raise Unavailable(
                        "unused artifacts are being collected (`tether artifacts gc`); try again "
                        "when that has ended"
                    )
                await vouched(self._options.artifacts, msg.card)
            await models.lock(connection)
            shelf = await self._shelf(connection, msg.card.ref)
            since = await _since(connection, msg.card.name, msg.revision)
            try:
                steps = shelf.register(msg.card, by, time.time(), since)
            except Overloaded:
                _refused.inc()
                raise
            return await self._made(connection, shelf, steps, msg.card.ref)

        async with self._looking if found else nullcontext():
            return await self._changing(work)

    @on(MoveModel, of=OPERATOR)
    async def move(self, msg: MoveModel, sender: Address) -> ModelsShown:
        """
        Raises:
            ModelNotFound: there is no such version.
            BadRequest: there is no such move.
            ModelConflict: the version is in no stage for it, or was changed by somebody else.
        """
        _bounded(msg.ref)
        by = msg.by or sender.node

        async def work(connection: asyncpg.Connection) -> ModelsShown:
            await models.lock(connection)
            shelf = await self._shelf(connection, msg.ref)
            since = await _since(connection, msg.ref.partition("@")[0], msg.revision)
            steps = shelf.move(msg, by, time.time(), since)
            return await self._made(connection, shelf, steps, msg.ref)

        return await self._changing(work)

    @on(ShowModels, of=OPERATOR)
    async def show(self, msg: ShowModels, sender: Address) -> ModelsShown:
        _bounded(msg.ref)
        database = self._database
        # First the number: a change that comes in between is refused rather than overlooked.
        revision = await models.revision(database)
        versions = await models.shown(database, msg.ref.partition("@")[0])
        asked = [v for v in versions if msg.ref in ("", v.card.name, v.card.ref)]
        history = await models.changes(database, msg.ref) if msg.history else ()
        return self._shown(asked, VersionSet(versions, self._listed), revision, history)

    def _shown(
        self,
        asked: Iterable[Version],
        shelf: VersionSet,
        revision: int,
        history: tuple[ModelChange, ...],
    ) -> ModelsShown:
        cards = {version.card.ref: version.card for version in asked}
        names = {card.name for card in cards.values()}
        return ModelsShown(
            models=tuple(cards.values()),
            current=tuple(c.ref for name, c in current(shelf.cards).items() if name in names),
            history=history,
            revision=revision,
            unlisted=tuple(ref for ref in shelf.unlisted if ref in cards),
        )

    async def _made(
        self, connection: asyncpg.Connection, shelf: VersionSet, steps: list[VersionStep], ref: str
    ) -> ModelsShown:
        """The steps, written down; shows the versions that they concern, or else `ref`."""
        await models.write(connection, steps)
        after = shelf.after(steps)
        concerned = [step.version for step in steps] or [
            v for v in after.versions.values() if ref in (v.card.name, v.card.ref)
        ]
        lines = tuple(step.line for step in steps)
        return self._shown(concerned, after, await models.revision(connection), lines)

    async def _changing(
        self, work: Callable[[asyncpg.Connection], Awaitable[ModelsShown]]
    ) -> ModelsShown:
        shown = await self._database.transact(work)
        for line in shown.history:
            metrics.model_changes.labels(line.what).inc()
            log.info("a model was changed", model=line.ref, what=line.what, by=line.by)
        if shown.history:
            try:
                await self._read()
            except TetherError as error:  # it is done all the same
                log.warning("the catalog could not be read again", error=error.message)
            self.background(self._tell(), name="tell")
        return shown

    async def _tell(self) -> None:
        """The registries of other nodes; one that can't be told reads again by itself."""
        order = Command(verb="models_changed", within_s=TELL_S)
        try:
            roster = await self.tree.wait(ROSTER, TELL_S)
            await self.ask(roster, order, timeout=2 * TELL_S)
        except TetherError as error:
            log.debug("other nodes were not told", error=error.message)  # this one may be alone

    # ---- reading

    async def _read(self) -> None:
        """What PostgreSQL knows, told to who watches if it is new."""
        async with self._reading:
            shelf = await self._shelf(self._database)
            _used.set(len(shelf.versions))
            found = shelf.offered
            if found != self._catalog.models or not self._catalog.version:
                self._catalog = Catalog(version=self._catalog.version + 1, models=found)
                news, self._news = self._news, asyncio.Event()
                news.set()
                log.info("the catalog changed", models=len(found))

    async def _reread(self) -> None:
        while True:
            await asyncio.sleep(self._options.reread_s)
            try:
                await self._read()
            except TetherError as error:
                log.warning("the catalog could not be read again", error=error.message)

    @on(ModelsChanged, of=OWN)
    async def changed(self, msg: ModelsChanged, sender: Address) -> None:
        """Somebody has changed the catalog in PostgreSQL: read it again. Other nodes tell the
        roster."""
        await self._read()

    @on(WatchCatalog, of=Role.WORKER)
    async def catalog(self, msg: WatchCatalog, sender: Address) -> AsyncIterator[Catalog]:
        """The catalog now, and whenever it changes."""
        version = -1
        while True:
            catalog = self._catalog
            if catalog.version != version:
                version = catalog.version
                yield catalog
            else:
                await self._news.wait()


async def _since(
    connection: DatabaseConnection, name: str, revision: int
) -> tuple[ModelChange, ...]:
    """The last change of a name after the revision that its asker has seen, if that says one."""
    return await models.changes(connection, name, revision, 1) if revision else ()


def _bounded(ref: str) -> None:
    if len(ref) > MAX_REF or not ref.isprintable():
        raise BadRequest(
            f"a version is named by at most {MAX_REF} printable characters", param="ref"
        )
