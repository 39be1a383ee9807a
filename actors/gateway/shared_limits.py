"""The gateway's talk with the store of limits: shares are asked for ahead of need, in the
background, and given back when they aren't used.

A request waits for the store only where its tenant has no share left here, and never longer than
`WAIT_S`: then the store counts as away, for all, and every tenant is held to this gateway's own
part of its limits until the store answers again.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from itertools import islice
from typing import Final, TypeVar

from actors.gateway import limit_metrics as metrics
from actors.gateway.admission import ShareShort, TenantAdmission
from actors.gateway.options import GatewayOptions
from actors.gateway.tenant_meter import TenantMeter
from actors.stores.limit_store import LimitStore, StoreAway
from supervision.child import Supervised
from supervision.errors import RateLimited
from supervision.telemetry import logs
from supervision.telemetry.line_budget import LineBudget

_T = TypeVar("_T")

log = logs.get(__name__)

WAIT_S: Final = 0.05  # of a request, for the store
ROUND_S: Final = 0.25  # within which it must have answered what nobody waits for
PAUSE_S: Final = 0.01  # between rounds that nobody waits for
AGAIN_S: Final = 0.25  # between two looks whether it is back
OPEN_S: Final = 1.0  # at the start
CLOSE_S: Final = 1.0  # at the end
IDLE_S: Final = 1.0  # after which shares go back
BEAT_S: Final = 1.5  # between two signs of life of permits
PERMITS_S: Final = 5.0  # how long they live without one
AT_ONCE: Final = 256  # orders of a round
LINES: Final = (60.0, 4)  # one of a kind in so many seconds, and of all kinds together


class SharedLimits:
    """The meters of a gateway, in `tenants`, as shares of those in the store; where the options
    name none, nothing is ever asked."""

    def __init__(self, actor: Supervised, options: GatewayOptions) -> None:
        self._actor = actor
        self._store = (
            LimitStore(options.store, uuid.uuid4().hex, PERMITS_S) if options.store.url else None
        )
        self.tenants = TenantAdmission(
            options.tenants,
            parts=options.parts,
            shared=self._store is not None,
            due=self.due,
        )
        self._due: dict[TenantMeter, None] = {}
        self._news = asyncio.Event()
        self._urgent = asyncio.Event()
        self._waiters: dict[TenantMeter, list[asyncio.Future[None]]] = {}
        self._held: dict[TenantMeter, float] = {}  # when each was heard of last
        self._lines = LineBudget(*LINES)
        self._lost = asyncio.Event()

    def due(self, meter: TenantMeter) -> None:
        """It has something to say to the store."""
        if self._store is not None and meter not in self._due:
            self._due[meter] = None
            self._news.set()

    async def open(self) -> None:
        """Reach the store, or do without for now."""
        if self._store is None:
            return
        try:
            async with asyncio.timeout(OPEN_S):
                await self._store.open()
        except (StoreAway, TimeoutError) as error:
            self._away(error)
        else:
            self._back()
        self._actor.background(self._talk(), name="limits")
        self._actor.background(self._watch_idle(), name="idle limits")

    async def close(self) -> None:
        """Give all back."""
        store = self._store
        if store is None:
            return
        admission = self.tenants
        if not admission.local:
            now = self._actor.loop.time()
            meters = [meter for meter in self._held if meter.holds]
            try:
                async with asyncio.timeout(CLOSE_S):
                    for first in range(0, len(meters), AT_ONCE):
                        some = meters[first : first + AT_ONCE]
                        await store.do([meter.order(now, keep=False) for meter in some])
            except (StoreAway, TimeoutError) as error:
                log.info("shares of limits were not given back", error=str(error))
        await store.close()

    async def granted(self, short: ShareShort, enter: Callable[[float], _T]) -> _T:
        """What `enter` (given the time) comes to, once the store was asked; it may be short again,
        for others ask too.

        Raises:
            RateLimited: it was until `WAIT_S` were over.
            Exception: what `enter` raises.
        """
        loop = self._actor.loop
        until = loop.time() + WAIT_S
        while True:
            await self.more(short.meter, short.tokens, until)
            now = loop.time()
            try:
                return enter(now)
            except ShareShort as again:
                if now >= until:
                    raise RateLimited(
                        "other requests have taken what was left; try again", retry_after_s=WAIT_S
                    ) from None
                short = again

    async def more(self, meter: TenantMeter, tokens: int, until: float) -> None:
        """Waits until there is word for a request of `tokens` of this tenant. If there is none by
        `until`, the store counts as away."""
        loop = self._actor.loop
        word: asyncio.Future[None] = loop.create_future()
        self._waiters.setdefault(meter, []).append(word)
        meter.wait(word, tokens)
        self.due(meter)
        self._urgent.set()
        metrics.waits.inc()
        try:
            await asyncio.wait((word,), timeout=max(0.0, until - loop.time()))
        finally:
            meter.waited(word)
            waiters = self._waiters.get(meter)
            if waiters is not None and word in waiters:
                waiters.remove(word)
                if not waiters:
                    del self._waiters[meter]
        if not word.done():
            self._away(StoreAway("hangs", f"it said nothing within {WAIT_S * 1000:.0f} ms"))

    def publish(self) -> None:
        """How full it is, now and then."""
        metrics.waiting.set(sum(map(len, self._waiters.values())))
        metrics.shares.set(len(self._held))

    # ---- rounds

    async def _talk(self) -> None:
        while True:
            await self._news.wait()
            if not self._urgent.is_set():
                await self._pause()
            self._news.clear()
            self._urgent.clear()
            if self.tenants.local:
                self._due.clear()
                self._wake(list(self._waiters))
                await self._return()
                continue
            now = self._actor.loop.time()
            taken = list(islice(self._due, AT_ONCE))
            for meter in taken:
                del self._due[meter]
            meters = [meter for meter in taken if not meter.local and meter.says(now)]
            if meters:
                await self._round(meters)
            if self._due:
                self._news.set()

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(PAUSE_S):
                await self._urgent.wait()
        except TimeoutError:
            pass

    async def _round(self, meters: list[TenantMeter]) -> None:
        store, loop = self._store, self._actor.loop
        assert store is not None
        orders = [meter.order(loop.time()) for meter in meters]
        metrics.rounds.inc()
        answer = asyncio.ensure_future(store.do(orders))
        answer.add_done_callback(lambda done: done.cancelled() or done.exception())
        lost = asyncio.ensure_future(self._lost.wait())
        try:
            await asyncio.wait((answer, lost), timeout=ROUND_S, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise StoreAway("hangs", f"{store.place} doesn't answer")
            replies = answer.result()
        except Exception as error:
            if not isinstance(error, StoreAway):
                log.exception("the talk with the store of limits failed")
            for meter, order in zip(meters, orders, strict=True):
                meter.unheard(order)
            self._away(error)
            return
        finally:
            lost.cancel()
            answer.cancel()
        now = loop.time()
        for meter, reply in zip(meters, replies, strict=True):
            meter.replied(reply, now)
            if meter.holds and not meter.gone:
                self._held[meter] = now
            elif not meter.running:
                self._held.pop(meter, None)
        self._wake(meters)
        for meter in meters:
            if meter.due(now) and not meter.gone:
                self.due(meter)

    def _wake(self, meters: list[TenantMeter]) -> None:
        for meter in meters:
            for word in self._waiters.pop(meter, ()):
                meter.waited(word)  # at once: what it has waited for isn't asked for again
                if not word.done():
                    word.set_result(None)

    async def _watch_idle(self) -> None:
        """Gives back what isn't used, and shows that the rest is."""
        while True:
            await asyncio.sleep(IDLE_S / 2)
            if self.tenants.local:
                self._held.clear()
                continue
            now = self._actor.loop.time()
            for meter, heard_at in list(self._held.items()):
                if meter.ordered:
                    continue
                if now - meter.used_at >= IDLE_S and meter.holds:
                    meter.rest()
                    self.due(meter)
                elif meter.permits.held and now - heard_at >= BEAT_S:
                    meter.beat()
                    self.due(meter)
                elif not meter.holds and not meter.running:
                    self._held.pop(meter, None)

    # ---- away, and back

    def _away(self, error: Exception) -> None:
        admission, now = self.tenants, self._actor.loop.time()
        if admission.local:
            return
        why = error.why if isinstance(error, StoreAway) else "hangs"
        metrics.fallbacks.labels(why).inc()
        metrics.shared.set(0)
        said = self._lines.take(why, now)
        if said is not None:
            log.warning(
                "the store of limits is away: each tenant is held to this gateway's part",
                why=why,
                error=str(error) or "it doesn't answer",
                unsaid=said,
            )
        admission.switch(local=True, now=now)
        self._lost.set()
        self._wake(list(self._waiters))
        self._news.set()

    def _back(self) -> None:
        self._lost.clear()
        metrics.shared.set(1)
        self.tenants.switch(local=False, now=self._actor.loop.time())

    async def _return(self) -> None:
        """Until the store answers again."""
        store = self._store
        assert store is not None
        while True:
            await asyncio.sleep(AGAIN_S)
            try:
                async with asyncio.timeout(ROUND_S):
                    await store.open()
            except (StoreAway, TimeoutError):
                await store.close()
                continue
            self._back()
            log.info("the store of limits is back", place=store.place)
            return
