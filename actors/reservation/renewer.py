"""The renewer: says every few seconds which jobs somebody has in hand, so their leases live."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from actors.contracts import HeldJob, Renew, Renewed
from actors.core.control_lookup import ControlLookup
from actors.reservation import metrics
from actors.reservation.settler import RESERVATION
from supervision.child import Supervised
from supervision.errors import TetherError
from supervision.telemetry import logs

log = logs.get(__name__)

RENEW_S: Final = 4.0  # a third of a lease, so that one which is lost costs none
TRIES: Final = 3  # each of another reservation, if there are others
AT_ONCE: Final = 2_048  # jobs of one message


class Renewer:
    """Any reservation does, since all of a cluster have one database; who fails is asked last.

    Args:
        by: who renews, for the metric.
        held: the jobs in hand now, each once.
        gone: is told of those whose lease there is no more.
        every_s: how often.
        heard: is told whether a reservation has answered.
    """

    def __init__(
        self,
        actor: Supervised,
        by: str,
        held: Callable[[], Iterable[HeldJob]],
        gone: Callable[[HeldJob], object] | None = None,
        *,
        every_s: float = RENEW_S,
        where: ControlLookup | None = None,
        heard: Callable[[bool], object] | None = None,
    ) -> None:
        self._actor = actor
        self._where = where or ControlLookup(actor)
        self._held = held
        self._gone = gone
        self._heard = heard
        self._every_s = every_s
        self._renewed = metrics.renewals.labels(by, "renewed")
        self._lost = metrics.renewals.labels(by, "gone")
        self._unheard = metrics.renewals.labels(by, "given_up")

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(self._every_s)
            held = tuple(self._held())
            for first in range(0, len(held), AT_ONCE):
                answered = await self.renew(held[first : first + AT_ONCE])
                if self._heard is not None:
                    self._heard(answered)

    async def renew(self, held: tuple[HeldJob, ...]) -> bool:
        """Whether a reservation has answered. If none does, a store is away perhaps; the sweep
        waits for a term when that is back."""
        for _ in range(TRIES):
            address = self._where.address(RESERVATION)
            if address is None:
                break
            try:
                renewed: Renewed = await self._actor.ask(
                    address, Renew(jobs=held), timeout=self._every_s / 2
                )
            except TetherError as error:
                self._where.failed(address)
                log.warning("leases.not_renewed", jobs=len(held), why=error.code)
                await asyncio.sleep(self._every_s / 20)
                continue
            self._renewed.inc(len(held) - len(renewed.gone))
            self._lost.inc(len(renewed.gone))
            if self._gone is not None:
                gone = set(renewed.gone)
                for one in held:
                    if one.job_id in gone:
                        self._gone(one)
            return True
        self._unheard.inc(len(held))
        return False
