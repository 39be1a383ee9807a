"""The actor that runs models: has the last word on its slots, and keeps what it has said."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from actors.contracts import (
    Attach,
    Catalog,
    Chunk,
    Completed,
    HealthReport,
    ModelCard,
    Run,
    WatchCatalog,
)
from actors.contracts.operating import Drain
from actors.core.control_lookup import ControlLookup
from actors.core.node_roles import Role
from actors.depot.peer_sources import PeerSources
from actors.engines.engine import Engine
from actors.errors import AnswerGone
from actors.worker import loader, remains
from actors.worker.health import HealthReporter, memory_bytes
from actors.worker.options import WorkerOptions
from actors.worker.pool import Pool
from actors.worker.run import End, ModelRun
from actors.worker.runs import Runs
from supervision.child import Supervised
from supervision.contracts.operating import ActorState, Standing
from supervision.errors import Draining, TetherError
from supervision.follower import Follower
from supervision.runtime import Address, on
from supervision.runtime.cancel_cause import CancelCause
from supervision.security.audience import OPERATOR, PLACER
from supervision.spec import ChildSpec
from supervision.telemetry import logs

log = logs.get(__name__)

TICK_S = 0.1
ROSTER = "control/roster"
REGISTRY = "control/registry"


class Worker(Supervised):
    """Answers `Run` and `Attach`. Lives beside the control chain and outlasts it: it finds
    roster, registry and reservation each time they are needed, the latter two also at other nodes
    where its own has none."""

    Options: ClassVar[type[msgspec.Struct]] = WorkerOptions
    max_handlers: ClassVar[int] = 16_384

    @classmethod
    def spec(
        cls, options: msgspec.Struct | None = None, *, id: str = "", **changes: Any
    ) -> ChildSpec:
        # Two of them at once would hold every model twice, and a GPU's memory isn't there twice.
        changes = {"shutdown": 30.0, "alone": True, **changes}
        return super().spec(options, id=id or getattr(options, "worker_id", ""), **changes)

    async def start(self, options: WorkerOptions) -> None:
        """
        Raises:
            Hindered: the engines of a predecessor are there still.
        """
        await remains.gone(self.path)
        self._options = options
        around = options.around
        self._peers = PeerSources.of(self.node_options, around) if around.nodes else None
        self._pool = Pool(self, options, self._open, self._changed, self._keep_only)
        self._control = ControlLookup(self, elsewhere=options.elsewhere, region=options.region)
        self._runs = Runs(self, options, self._control)
        self._draining = False
        self._health = HealthReporter(options.report_s, time.time_ns(), self._send_report)
        self._roster: Address | None = None
        self.tree.on_change(self._tree_changed)
        self.background(self._follow(), name="follow")
        self.background(self._sweep(), name="sweep")
        self.background(self._runs.renewer.run(), name="renew")

    async def stop(self, deadline_s: float) -> None:
        """Takes no more, lets what runs finish and be settled, and hands the rest on."""
        self._draining = True
        self._health.touch()
        self._report(self.loop.time())
        await self._runs.stop(deadline_s)
        await self._pool.stop()

    @on(Drain, of=OPERATOR | PLACER)
    def drain(self, msg: Drain, sender: Address) -> Standing:
        """An operator says so: what runs finishes, and new runs go elsewhere."""
        self._draining = msg.on or self._child_stopping is not None
        self._health.touch()
        self._report(self.loop.time())
        return Standing(state=ActorState.DRAINING if self._draining else ActorState.RUNNING)

    def described(self) -> dict[str, object]:
        return {
            "models": " ".join(self._pool.models),
            "loading": " ".join(self._pool.loading),
            "loadable": " ".join(self._pool.loadable),
            "model_bytes": self._pool.held_bytes,
            "slots": self._options.slots,
            "running": self._runs.running,
            "queued": self._runs.queued,
            "draining": self._draining,
        }

    # ---- runs

    @on(Run, Attach, of=Role.CONTROL)
    async def answer(self, msg: Run | Attach, sender: Address) -> AsyncIterator[Chunk | Completed]:
        """A new run, or one that is held, from a token on.

        Raises:
            ModelNotFound, BadRequest, ContextExceeded: the request is at fault.
            Overloaded, Draining: nothing began; try another worker. So too if its model was to be
                loaded for it, and couldn't.
            AnswerGone: the fencing token is stale, or the run isn't held, or not from that `seq`
                on.
            WorkerLost: the engine failed.
            DeadlineExceeded: it wasn't complete in time.
        """
        execution = self._run(msg, sender) if isinstance(msg, Run) else self._attach(msg)
        options = self._options
        end = End(
            execution,
            from_seq=execution.journal.base if isinstance(msg, Run) else msg.from_seq,
            whole=not msg.stream,
            split_at=msg.split_at,
            window_s=options.window_s,
            characters=options.chunk_characters,
        )
        why: CancelCause | None = None
        try:
            while True:
                item = await end.item(self.loop, self._runs.read_later)
                yield item
                if type(item) is Completed:
                    execution.done_reading = True
                    return
        except asyncio.CancelledError as cancelled:
            why = CancelCause.of(cancelled)
            raise
        except GeneratorExit:
            why = CancelCause.CANCELLED
            raise
        finally:
            end.leave()
            if why is not None and not execution.ends and execution.running:
                self._runs.deserted(execution, why)

    def _run(self, msg: Run, sender: Address) -> ModelRun:
        held = self._runs.held(msg)
        if held is not None:
            return held  # the same order once more
        if self._draining:
            raise Draining("this worker takes no new runs; try another one")
        use = self._pool.use(msg.job.model_ref)
        try:
            execution = self._runs.begin(msg, use)
        except BaseException:
            use.done()
            raise
        execution.placed_by, execution.gateway = sender.node, sender
        return execution

    def _attach(self, msg: Attach) -> ModelRun:
        execution = self._runs.find(msg.job_id, msg.fencing_token)
        if execution is None:
            raise AnswerGone("this worker doesn't hold the answer (any more)")
        return execution

    # ---- time

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            now = self.loop.time()
            await self._pool.tick(now)
            self._runs.sweep(now)
            self._report(now)

    # ---- models

    async def _follow(self) -> None:
        """The catalog says what is offered, and the configuration where nobody says it in time."""
        options = self._options
        if options.catalog_s:
            find = self._control.finder(REGISTRY)
            catalog = Follower(self, REGISTRY, WatchCatalog(), self._see, find)
            self.background(catalog.run(), name="catalog")
            try:
                await asyncio.wait_for(catalog.first.wait(), options.catalog_s)
            except TimeoutError:
                log.warning("the catalog isn't known yet; the configured models are loaded")
            else:
                return
        self._pool.adopt(options.cards)

    def _see(self, catalog: Catalog) -> None:
        self._health.keep(card.ref for card in catalog.models)
        self._pool.adopt(catalog.models)

    async def _open(self, card: ModelCard, sized: Callable[[int], None]) -> Engine:
        options = self._options
        return await loader.load(
            card,
            slots=options.slots,
            queue=options.queue,
            threads=options.threads,
            gpus=options.gpus,
            sandbox=options.sandbox,
            cache_dir=Path(options.cache_dir),
            artifacts=options.artifacts,
            stuck_s=options.stuck_s,
            probe_s=options.probe_s,
            prefix_bytes=options.prefix_mib << 20,
            peers=self._peers.asking if self._peers else None,
            sized=sized,
        )

    def _keep_only(self, cards: Iterable[ModelCard]) -> None:
        options = self._options
        if options.artifacts.replicas:
            from actors.artifacts.source import keep_only

            keep_only(cards, Path(options.cache_dir), options.artifacts)

    def _changed(self, card: ModelCard | None) -> None:
        """The pool's models aren't what they were."""
        if card is not None:
            self._health.loaded(card)
        self._health.touch()
        self._report(self.loop.time())

    # ---- health

    def _report(self, now: float) -> None:
        runs, health = self._runs, self._health
        if not health.due(runs.running, runs.queued, now):
            return
        options, pool = self._options, self._pool
        models = pool.models
        tags = {engine.capabilities.tag for engine in pool.engines}
        health.send(
            HealthReport(
                worker_id=options.worker_id,
                node_id=options.node_id,
                address=str(self.address),
                region=options.region,
                slots=options.slots,
                running=runs.running,
                queued=runs.queued,
                models=models,
                epoch=health.epoch,
                sequence=health.next_sequence(),
                gpu_class=options.gpu_class,
                draining=self._draining,
                memory_bytes=memory_bytes()
                + sum(engine.snapshot().resident_bytes for engine in pool.engines),
                resume_tag=" ".join(sorted(tags)),
                digests=health.digests(models),
                cached=health.cached,
                placed_by=runs.placed_by,
                loadable=pool.loadable,
                loading=pool.loading,
                tokens_per_s=round(pool.rate.per_s(now), 1),
                model_bytes=pool.held_bytes,
                budget_bytes=options.model_memory_mib << 20,
                abilities=pool.abilities(models),
            ),
            now,
        )

    def _send_report(self, report: HealthReport) -> bool:
        roster = self.tree.address(ROSTER)
        if roster is None:
            return False
        try:
            self.tell(roster, report)
        except TetherError:
            return False
        return True

    def _tree_changed(self, *_: object) -> None:
        """A roster that has just started knows nobody."""
        roster = self.tree.address(ROSTER)
        if roster is not None and roster != self._roster:
            self._roster = roster
            self._health.touch()
            self._report(self.loop.time())
