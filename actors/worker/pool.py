"""The models of a worker: loaded and let go as `actors.worker.model_cache` decides, and lent to
runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from copy import copy
from typing import Any, Final

from actors.contracts import ModelCard
from actors.core import engine_kinds
from actors.engines import factory
from actors.engines.engine import Engine
from actors.errors import ModelNotFound, ModelUnusable, WorkerLost
from actors.worker import eligible_models, files, metrics
from actors.worker.model_cache import ModelCache
from actors.worker.model_lease import ModelLease
from actors.worker.model_metrics import ModelMetrics, TokenRate
from actors.worker.model_state import Close, Load
from actors.worker.options import WorkerOptions
from supervision.child import Supervised
from supervision.errors import Overloaded, TetherError
from supervision.intensity import Intensity
from supervision.telemetry import logs

log = logs.get(__name__)

MEASURE_S: Final = 1.0
SAID: Final = (
    256  # loadable models of a report, best rank first: nodes announce those of all workers
)

Open = Callable[[ModelCard, Callable[[int], None]], Awaitable[Engine]]


class Pool:
    """See the module. `open` makes a card into an engine that has answered, and is given a function
    to tell how large the files turned out to be; `changed` is told when what there is has changed,
    with the card that was just loaded, and `keep_only` whose files are still read.
    A configured worker none of whose models can be had fails, as does one whose engines break too
    often."""

    def __init__(
        self,
        actor: Supervised,
        options: WorkerOptions,
        open: Open,
        changed: Callable[[ModelCard | None], None],
        keep_only: Callable[[Iterable[ModelCard]], None],
    ) -> None:
        self._actor = actor
        self._loop = actor.loop
        self._options = options
        self._open = open
        self._changed = changed
        self._keep_only = keep_only
        self._own = {card.ref: card for card in options.cards}
        self._patterns = options.models or tuple(self._own)
        self._warm = ModelCache(
            options.model_memory_mib << 20, keep_s=options.keep_loaded_s, idle_s=options.idle_s
        )
        self._cards: dict[str, ModelCard] = {}
        self._engines: dict[str, Engine] = {}
        self._here: dict[str, ModelCard] = {}  # what is loaded, or about to be
        self._waiting: dict[str, dict[ModelLease, None]] = {}
        self._restarts = Intensity(options.engine_restarts, options.engine_period_s)
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._measured_at = 0.0
        self._seen: tuple[tuple[str, ...], ...] = ()
        self._unfit: dict[str, str] = {}
        self._stopping = False
        self._fault = ""
        self._shown = ModelMetrics(options.model_memory_mib << 20)
        self.rate = TokenRate()

    # ---- what there is

    @property
    def models(self) -> tuple[str, ...]:
        """What answers."""
        return self._warm.warm

    @property
    def loading(self) -> tuple[str, ...]:
        """What is about to."""
        return self._warm.loading

    @property
    def loadable(self) -> tuple[str, ...]:
        """What would, for a run; no more than reports can carry."""
        return self._warm.loadable(self._loop.time())[:SAID]

    def abilities(self, refs: Iterable[str]) -> tuple[str, ...]:
        """One for each ref; empty for one that isn't here."""
        engines = self._engines
        return tuple(engines[ref].capabilities.abilities if ref in engines else "" for ref in refs)

    @property
    def engines(self) -> Iterable[Engine]:
        """All that are open, those on their way out left aside."""
        return self._engines.values()

    @property
    def held_bytes(self) -> int:
        """What they take, as far as it is known."""
        return self._warm.held

    # ---- what it is told

    def adopt(self, cards: Iterable[ModelCard]) -> None:
        """These are offered from now on."""
        options = self._options
        kept = [
            eligible_models.at_home(card, self._own)
            for card in cards
            if eligible_models.suits(
                card,
                patterns=self._patterns,
                region=options.region,
                gpu_class=options.gpu_class,
                runnable=self._runnable,
            )
        ]
        self._cards = {card.ref: card for card in kept}
        size = files.estimate if options.model_memory_mib else lambda card: 0
        for ref in self._warm.wish(eligible_models.wishes(kept, pinned=options.pinned, size=size)):
            self._serve(ref)
        for ref in [ref for ref in self._waiting if ref not in self._cards]:
            self._refuse(ref, ModelNotFound(f"{ref} is not offered any more", param="model"))
        self._go()

    def use(self, ref: str) -> ModelLease:
        """A hold on that model, or a place among those who wait for it.

        Raises:
            ModelNotFound: it isn't one of this worker's.
            Overloaded: it can't be had here now; the sentence says why.
        """
        warm, now = self._warm, self._loop.time()
        if refusal := warm.refusal(ref, now):
            if ref in self._cards:
                raise Overloaded(refusal, retry_after_s=1.0)
            if not self._cards and ref in self._own:
                raise Overloaded(f"this worker is still starting; {ref} comes", retry_after_s=1.0)
            raise ModelNotFound(f"this worker doesn't have {ref}", param="model")
        if warm.ask(ref, now):
            return ModelLease(self._give_back, ref, self._engines[ref])
        use = ModelLease(self._give_back, ref, None)
        use.ready = self._loop.create_future()
        self._waiting.setdefault(ref, {})[use] = None
        self._go()
        return use

    def _give_back(self, use: ModelLease) -> None:
        """See `ModelLease.done`."""
        waiting = self._waiting.get(use.ref)
        if waiting is not None and use in waiting:
            del waiting[use]
            if not waiting:
                del self._waiting[use.ref]
            self._warm.give_up(use.ref)
        elif use.engine is not None:
            self._warm.leave(use.ref, self._loop.time())
            if self._warm.restless:
                self._go()

    async def tick(self, now: float) -> None:
        """A few times a second: engines that broke, what they weigh, and what time has brought."""
        for ref, engine in list(self._engines.items()):
            if fault := engine.snapshot().fault:
                await self._lost(ref, fault, now)
        if now - self._measured_at >= MEASURE_S:
            self._measured_at = now
            seen = {ref: engine.snapshot() for ref, engine in self._engines.items()}
            for ref, snapshot in seen.items():
                self._warm.resize(ref, snapshot.resident_bytes)
            self.rate.see({ref: snapshot.output_tokens for ref, snapshot in seen.items()}, now)
            self._shown.publish(self._warm, self.rate.per_s(now), now)
        self._go()

    async def stop(self) -> None:
        """Loads are broken off, and all engines are closed."""
        self._stopping = True
        for ref in list(self._waiting):
            self._refuse(ref, Overloaded("this worker is stopping; try another one"))
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        closing = (engine.close() for engine in self._engines.values())
        await asyncio.gather(*closing, return_exceptions=True)
        self._engines.clear()

    # ---- what it does

    def _go(self) -> None:
        """Begin what is due."""
        if self._stopping:
            return
        now = self._loop.time()
        for step in self._warm.plan(now):
            if isinstance(step, Load):
                card = self._here[step.ref] = self._cards[step.ref]
                self._begin(self._load(card), f"load {step.ref}")
            else:
                self._begin(self._close(step), f"close {step.ref}")
        self._tell(now)
        if not self._warm.alive and self._own.keys() & self._cards.keys():
            self._stopping = True
            self._actor.background(self._actor.fail(ModelUnusable(self._why())), name="fail")

    def _begin(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = self._actor.background(work, name=name)
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))

    async def _load(self, card: ModelCard) -> None:
        ref, began = card.ref, self._loop.time()
        try:
            engine = await self._open(card, lambda size: self._sized(ref, size))
        except Exception as error:
            if isinstance(error, TetherError):
                why = error.message
            else:
                why = "its load broke; see the log"
                log.exception("a model's load broke", model=ref)
            log.error("a model can't be loaded", model=ref, error=why)
            metrics.warm_loads.labels(ref, "failed").inc()
            self._fault = why
            self._gone(ref)
            self._warm.failed(ref, why, self._loop.time())
            refusal = f"{ref} can't be loaded on this worker ({why}); try another one"
            self._refuse(ref, Overloaded(refusal, retry_after_s=1.0))
            self._go()
            return
        now = self._loop.time()
        metrics.warm_loads.labels(ref, "loaded").inc()
        metrics.warm_load_seconds.observe(now - began)
        self._engines[ref] = engine
        if self._warm.loaded(ref, engine.snapshot().resident_bytes, now):
            self._serve(ref)
        self._tell(now, card)
        self._go()

    def _serve(self, ref: str) -> None:
        """All who wait for it have it now."""
        engine = self._engines[ref]
        for use in self._waiting.pop(ref):
            assert use.ready is not None
            use.engine = engine
            if not use.ready.done():
                use.ready.set_result(engine)

    def _sized(self, ref: str, size: int) -> None:
        """Its files are there, and so large.

        Raises:
            ModelUnusable: that is too much for this worker.
        """
        self._warm.resize(ref, size)
        if unfit := self._warm.unfit(ref):
            raise ModelUnusable(unfit)
        self._go()

    async def _close(self, step: Close) -> None:
        engine = self._engines.pop(step.ref)
        log.info("a model is let go", model=step.ref, why=step.why)
        metrics.warm_evictions.labels(step.ref, step.why).inc()
        await self._closed(step.ref, engine)

    async def _closed(self, ref: str, engine: Engine) -> None:
        try:
            await engine.close()
        except TetherError as error:
            log.error("an engine didn't close well", model=ref, error=error.message)
        finally:
            self._gone(ref)
            self._warm.closed(ref)
        self._go()

    def _gone(self, ref: str) -> None:
        self._here.pop(ref, None)
        self._keep_only(self._here.values())

    async def _lost(self, ref: str, fault: str, now: float) -> None:
        """Start it anew here: what this worker has said and not yet settled, and its other models,
        are no worse for it. One that ends again and again is the supervisor's business."""
        log.error("an engine is lost", model=ref, error=fault)
        engine = self._engines.pop(ref)
        self._warm.lost(ref)
        self._tell(now)
        if not self._restarts.admit(now):
            self._stopping = True
            await self._actor.fail(WorkerLost(f"{fault}; it was started anew too often"))
            return
        metrics.engine_restarts.labels(ref).inc()
        self._begin(self._closed(ref, engine), f"close {ref}")

    def _refuse(self, ref: str, error: TetherError) -> None:
        for use in self._waiting.pop(ref, {}):
            self._warm.give_up(ref)
            if use.ready is not None and not use.ready.done():
                use.ready.set_exception(copy(error))
                use.ready.exception()  # whoever waits may be gone

    def _tell(self, now: float, card: ModelCard | None = None) -> None:
        """Say what has changed, once; `card` has just been loaded."""
        warm = self._warm
        seen = (warm.warm, warm.loading, warm.loadable(now))
        if seen != self._seen:
            self._seen = seen
            self._changed(card)
        unfit = {ref: why for ref in self._cards if (why := warm.unfit(ref))}
        for ref in unfit.keys() - self._unfit.keys():
            log.error("a model doesn't fit on this worker", model=ref, error=unfit[ref])
        self._unfit = unfit

    def _why(self) -> str:
        return self._fault or next(iter(self._unfit.values()), "no model can be loaded")

    def _runnable(self, card: ModelCard) -> bool:
        """Is what its engine needs installed? That one of the configuration can't run is said when
        it is loaded."""
        if card.ref in self._own:
            return True
        kind = engine_kinds.find(card.engine)
        return kind is not None and factory.installed(kind)
