"""The actor through which all jobs are reserved and settled. A shell around the `Ledger`."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

import msgspec

from actors.contracts import (
    AnswerFetched,
    BreakerStates,
    FetchAnswer,
    Renew,
    Renewed,
    Reserve,
    Reserved,
    Settle,
    Settled,
)
from actors.contracts.operating import KeepBreakers
from actors.core.node_roles import Role
from actors.core.price import PriceBook
from actors.core.price_options import PriceOptions
from actors.reservation.books import Books
from actors.stores import breakers
from actors.stores.answer_store import AnswerStore
from actors.stores.database import answers, connect, patiently
from actors.stores.ledger import Ledger, LedgerOptions
from supervision.child import Supervised
from supervision.runtime import Address, on
from supervision.security.audience import OWN
from supervision.spec import ChildSpec
from supervision.telemetry import logs

log = logs.get(__name__)

_DRAIN_S = 5.0


class ReservationOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`dsn` is PostgreSQL's. A start waits up to `connect_s` for it, since it may be restarting
    too. `prices` are those of the configuration.

    Raises:
        ValueError: a number is out of its range.
    """

    dsn: str
    connect_s: float = 20.0
    ledger: LedgerOptions = LedgerOptions()
    prices: tuple[PriceOptions, ...] = ()

    def __post_init__(self) -> None:
        if not self.dsn:
            raise ValueError("the reservation needs the DSN of its PostgreSQL")
        if not 0 < self.connect_s < 3600:
            raise ValueError("connect_s of the reservation must be above 0")


class Reservation(Supervised):
    """Answers `Reserve`, `Settle`, `Renew` and `FetchAnswer`, all idempotent, and sweeps leases
    that ran out. Keeps nothing that PostgreSQL doesn't: any number of them may run, and each may be
    killed."""

    Options: ClassVar[type[msgspec.Struct]] = ReservationOptions
    max_handlers: ClassVar[int] = 16_384  # the ledger's own bound, `waiting_max`, comes first

    @classmethod
    def spec(
        cls, options: msgspec.Struct | None = None, *, id: str = "", **changes: Any
    ) -> ChildSpec:
        """As a child. Rounds in flight are answered before it ends."""
        return super().spec(options, id=id, **{"shutdown": _DRAIN_S + 2.0, **changes})

    async def start(self, options: ReservationOptions) -> None:
        self._dsn = options.dsn
        self._one_by_one = asyncio.Lock()
        self._answers = AnswerStore(options.dsn)
        book = PriceBook()
        self._ledger = Ledger(options.dsn, options.ledger, book)
        self._books = Books(options.dsn, options.ledger, book)
        await patiently(
            self._ledger.open,
            options.connect_s,
            lambda error, _: log.warning("waits for PostgreSQL", reason=str(error)),
        )
        await patiently(lambda: self._books.open(options.prices), options.connect_s)

    async def stop(self, deadline_s: float) -> None:
        self._answers.close()
        await self._books.close()
        await self._ledger.close(min(_DRAIN_S, max(0.0, deadline_s - 0.5)))

    @on(Reserve, of=OWN)
    async def reserve(self, msg: Reserve, sender: Address) -> Reserved:
        """See `Ledger.reserve`."""
        return await self._ledger.reserve(msg)

    @on(Settle, of=Role.WORKER)
    async def settle(self, msg: Settle, sender: Address) -> Settled:
        """See `Ledger.settle`. A worker of another node settles what is with its node, whatever
        jobs and tokens it knows of."""
        own = sender.node == self.address.node
        return await self._ledger.settle(msg, "" if own else sender.node)

    @on(Renew, of=Role.WORKER)
    async def renew(self, msg: Renew, sender: Address) -> Renewed:
        """See `Ledger.renew`. A worker of another node renews what is with its node."""
        own = sender.node == self.address.node
        return await self._ledger.renew(msg, "" if own else sender.node)

    @on(FetchAnswer, of=OWN)
    async def fetch_answer(self, msg: FetchAnswer, sender: Address) -> AnswerFetched:
        """See `AnswerStore.fetch`."""
        return await self._answers.fetch(msg)

    @on(KeepBreakers, of=OWN)
    async def keep_breakers(self, msg: KeepBreakers, sender: Address) -> BreakerStates:
        """Rare, so each has a connection of its own, one after the other.

        Raises:
            BadRequest: there is no such mode.
            Unavailable: PostgreSQL can't be reached.
        """
        async with self._one_by_one:
            connection = await connect(self._dsn)
            try:
                with answers():
                    if msg.breakers:
                        await breakers.keep(connection, msg.breakers)
                    return BreakerStates(breakers=await breakers.kept(connection))
            finally:
                connection.terminate()
