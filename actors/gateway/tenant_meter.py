"""The meter of one tenant at one gateway: its shares of requests, tokens and concurrency. Pure."""

from __future__ import annotations

from collections import OrderedDict

import msgspec

from actors.contracts.limits import LimitState
from actors.gateway.permits import Permits
from actors.gateway.share import Share
from actors.stores.limit_orders import BucketOrder, TenantOrder, TenantReply
from supervision.errors import RateLimited

LOOK_S = 0.05  # how old what is known of a bucket may be when it refuses


class TenantLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What one tenant may use. 0 is no limit."""

    requests_per_minute: float = 0.0
    tokens_per_minute: float = 0.0
    concurrency: int = 0

    def __post_init__(self) -> None:
        for name in ("requests_per_minute", "tokens_per_minute", "concurrency"):
            if not getattr(self, name) >= 0:
                raise ValueError(
                    f"{name} is {getattr(self, name)}; it must be 0 (no limit) or more"
                )


UNLIMITED = TenantLimits()


NOTHING = BucketOrder()


class TenantMeter:
    """
    Args:
        parts: how many gateways of the cluster have a share each.
    """

    __slots__ = (
        "_looked_at",
        "_parts",
        "_pressing",
        "_resting",
        "_waiting",
        "gone",
        "limits",
        "local",
        "ordered",
        "permits",
        "requests",
        "tenant_id",
        "tokens",
        "used_at",
    )

    def __init__(self, tenant_id: str, limits: TenantLimits, parts: int, now: float) -> None:
        self.tenant_id = tenant_id
        self.limits = limits
        self.permits = Permits(limits.concurrency, parts)
        self.requests = _share(limits.requests_per_minute, parts, now)
        self.tokens = _share(limits.tokens_per_minute, parts, now)
        self.local = False
        self.ordered = False
        """Is an order of it on its way?"""
        self.gone = False
        """Was it forgotten? Then all that it holds is to go back."""
        self.used_at = now
        self._parts = parts
        self._looked_at = float("-inf")
        self._pressing = False  # it is to be ordered for, whatever there is to say
        self._resting = False  # it isn't used
        self._waiting: OrderedDict[object, int] = OrderedDict()

    @property
    def running(self) -> int:
        """Requests that have entered and not left."""
        return self.permits.running

    @property
    def holds(self) -> bool:
        """Does it hold anything that is to be given back when it is idle?"""
        shares = (self.requests, self.tokens)
        return bool(self.permits.held) or any(s is not None and s.balance for s in shares)

    # ---- requests

    def check(self, tokens: int, now: float, *, runs: bool = True) -> None:
        """
        Raises:
            RateLimited: as far as is known, there is no room for a request of `tokens`, which
                `runs` beside the others.
        """
        limits, permits = self.limits, self.permits
        if runs and permits.limit and permits.full(now):
            raise RateLimited(
                f"{permits.running} requests run here, and {permits.limit} may at once in all; "
                "wait for one to end",
                retry_after_s=1.0,
            )
        if self.requests is not None:
            _refuse_early(self.requests.wait_s(1, now), "requests", limits.requests_per_minute)
        if self.tokens is not None:
            _refuse_early(self.tokens.wait_s(tokens, now), "tokens", limits.tokens_per_minute)

    def short(self, tokens: int, *, runs: bool = True) -> bool:
        """Must the store be asked before a request of `tokens` may enter?"""
        return (
            (runs and self.permits.short)
            or (self.requests is not None and self.requests.short(1))
            or (self.tokens is not None and self.tokens.short(tokens))
        )

    def ready(self, tokens: int, *, runs: bool = True) -> bool:
        """May a request of `tokens` enter by what is held here, with nothing else to look at?"""
        return not (self.local or self.short(tokens, runs=runs)) and (not runs or self.permits.free)

    def enter(self, tokens: int, now: float) -> None:
        """A request is let in, at most `tokens` of which are charged; `leave` must follow."""
        self.permits.running += 1
        self.used_at = now
        self._resting = False
        if self.requests is not None:
            self.requests.take(1, now)
        if self.tokens is not None:
            self.tokens.take(tokens, now)

    def resume(self, now: float) -> None:
        """One that was let in and charged before, here or elsewhere, is here from now on."""
        self.permits.running += 1
        self.used_at = now

    def leave(self) -> None:
        """One has ended."""
        self.permits.running -= 1

    def charge(self, tokens: float, now: float) -> None:
        """More tokens than were charged at first, or (negative) fewer."""
        if tokens and self.tokens is not None:
            self.used_at = now
            self.tokens.take(tokens, now)

    def state(self, now: float) -> LimitState | None:
        """What is left, as far as is known; None where the tenant has no limit a minute."""
        requests, tokens = self.requests, self.tokens
        if requests is None and tokens is None:
            return None
        limit_requests, left_requests, reset_requests_s = _left(requests, now)
        limit_tokens, left_tokens, reset_tokens_s = _left(tokens, now)
        return LimitState(
            limit_requests=limit_requests,
            remaining_requests=left_requests,
            reset_requests_s=reset_requests_s,
            limit_tokens=limit_tokens,
            remaining_tokens=left_tokens,
            reset_tokens_s=reset_tokens_s,
        )

    def look(self, now: float) -> bool:
        """A request was refused by what is known: is that old enough to be asked for again?"""
        if self.local or self.ordered or now - self._looked_at < LOOK_S:
            return False
        self._looked_at = now
        self._pressing = True
        return True

    # ---- the store

    def rest(self) -> None:
        """Nobody uses it: what it holds goes back with the next order."""
        self._pressing = self._resting = True

    def beat(self) -> None:
        """The store shall hear that it lives."""
        self._pressing = True

    def says(self, now: float) -> bool:
        """Has it anything to say to the store?"""
        return self._pressing or self.gone or bool(self._waiting) or self.due(now)

    def wait(self, who: object, tokens: int) -> None:
        """`who` waits for the store, with a request of `tokens`; `waited` must follow."""
        self._waiting[who] = tokens

    def waited(self, who: object) -> None:
        """`who` waits no more."""
        self._waiting.pop(who, None)

    @property
    def waits(self) -> bool:
        """Does anybody?"""
        return bool(self._waiting)

    def due(self, now: float) -> bool:
        """Is there anything to order though nobody waits?"""
        if self.local:
            return False
        return (
            self.permits.due
            or (self.requests is not None and self.requests.due(now))
            or (self.tokens is not None and self.tokens.due(now))
        )

    def order(self, now: float, *, keep: bool = True) -> TenantOrder:
        """What to ask the store for; `replied` or `unheard` must follow. Without `keep` all that
        isn't used goes back."""
        waiting = self._waiting
        keep = keep and not self.gone and (bool(waiting) or not self._resting)
        self._pressing = self._resting = False
        count = len(waiting)
        first = next(iter(waiting.values())) if count else 0
        all_ = sum(waiting.values()) if count else 0
        requests, tokens = self.requests, self.tokens
        self.ordered = True
        return TenantOrder(
            tenant_id=self.tenant_id,
            requests_limit=0.0 if requests is None else requests.limit,
            tokens_limit=0.0 if tokens is None else tokens.limit,
            requests=(
                NOTHING
                if requests is None
                else requests.order(min(count, 1), count, now, keep=keep)
            ),
            tokens=NOTHING if tokens is None else tokens.order(first, all_, now, keep=keep),
            permits=self.permits.order(count, keep=keep),
        )

    def replied(self, reply: TenantReply, now: float) -> None:
        """The store has done it."""
        self.ordered = False
        self._looked_at = now
        if self.requests is not None:
            self.requests.replied(reply.requests, now)
        if self.tokens is not None:
            self.tokens.replied(reply.tokens, now)
        if self.permits.counted:
            self.permits.replied(reply.permits, now)

    def unheard(self, order: TenantOrder) -> None:
        """Nobody knows whether it has."""
        self.ordered = False
        if self.requests is not None:
            self.requests.unheard(order.requests)
        if self.tokens is not None:
            self.tokens.unheard(order.tokens)

    # ---- without the store

    def stand_alone(self, now: float, missing: tuple[float, float] = (0.0, 0.0)) -> None:
        """It begins without a store; its buckets lack so much of the whole."""
        self.local = True
        self.permits.leave_store()
        for share, lacks in zip((self.requests, self.tokens), missing, strict=True):
            if share is not None:
                share.stand_alone(now, missing=lacks)

    def switch(self, *, local: bool, now: float) -> None:
        """The store is away (`local`), or back."""
        if local is self.local:
            return
        self.local = local
        shares = [share for share in (self.requests, self.tokens) if share is not None]
        if local:
            self.permits.leave_store()
            for share in shares:
                share.leave_store(now)
        else:
            self._pressing = True  # what runs here is to be counted there again
            self.permits.return_to_store()
            for share in shares:
                share.return_to_store(now)

    def missing(self, now: float) -> tuple[float, float]:
        """What buckets of the gateway's own lack of the whole: of requests, and tokens."""
        requests, tokens = self.requests, self.tokens
        return (
            0.0 if requests is None else requests.missing(now),
            0.0 if tokens is None else tokens.missing(now),
        )

    def change(self, limits: TenantLimits, now: float) -> None:
        """The tenant has other limits; what is used of them stays used, in parts of the whole."""
        self.limits = limits
        self.permits.limit = limits.concurrency
        self.requests = self._changed(self.requests, limits.requests_per_minute, now)
        self.tokens = self._changed(self.tokens, limits.tokens_per_minute, now)

    def _changed(self, share: Share | None, limit: float, now: float) -> Share | None:
        if share is None or not limit:
            share = _share(limit, self._parts, now)
            if share is not None and self.local:
                share.stand_alone(now)
        elif share.limit != max(limit, 1.0):
            share.change(limit, now)
        return share


def _share(limit: float, parts: int, now: float) -> Share | None:
    return Share(limit, parts, now) if limit else None


def _left(share: Share | None, now: float) -> tuple[int, int, float]:
    """Of a bucket: its limit, what remains, and the seconds until it is full."""
    if share is None:
        return 0, 0, 0.0
    left = share.left(now)
    return int(share.limit), max(0, int(left)), (share.limit - left) / share.rate


def _refuse_early(wait_s: float, what: str, per_minute: float) -> None:
    if wait_s > 0:
        raise RateLimited(
            f"more than {per_minute:g} {what} a minute; try again in {wait_s:.1f} s",
            retry_after_s=wait_s,
        )
