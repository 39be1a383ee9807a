"""The replays of a gateway: answers that are said again, from what the store has kept of them."""

from __future__ import annotations

from typing import Final

import msgspec

from actors.contracts import AnswerFetched, Chunk, Completed, FetchAnswer, Infer
from actors.core.kept_answer import AnswerDamaged, refill, unpack
from actors.errors import AnswerGone, WorkerLost
from actors.gateway import metrics
from actors.gateway.request_session import RequestSession
from supervision.child import Supervised
from supervision.errors import Draining, PeerLost, TetherError
from supervision.telemetry import logs

log = logs.get(__name__)

RESERVATION: Final = "control/reservation"
ASK_S: Final = 10.0


class Replays:
    """Asks the reservation of the own node, which has the store."""

    def __init__(self, actor: Supervised) -> None:
        self._actor = actor
        self._memory = metrics.replays.labels("memory")
        self._store = metrics.replays.labels("store")
        self._worker = metrics.replays.labels("worker")
        self._damaged = metrics.answers_damaged

    async def fill(self, session: RequestSession, now: float) -> bool:
        """Says the kept answer of its job, which was completed, into its journal, and closes that.
        False where none can be used: the journal is as it was, and `past.billed` is known.

        Raises:
            Draining: the reservation is gone, and this gateway restarts after it.
            TetherError: what it says; it may be asked again.
        """
        job_id, tenant_id = session.job_id, session.tenant_id
        ask, within_s = (
            FetchAnswer(job_id=job_id, tenant_id=tenant_id),
            session.placement.deadline - now,
        )
        fetched = await self._ask(ask, within_s)
        if session.outcome is not None:
            return False
        if fetched.answer:
            try:
                refill(session.journal, unpack(fetched.answer), session.infer.from_seq)
            except AnswerDamaged as error:
                self._damaged.inc()
                log.error("a kept answer is damaged", job_id=job_id, error=error.message)
            except WorkerLost as error:
                log.warning("a kept answer can't be joined", job_id=job_id, error=error.message)
            else:
                session.past.fetched = True
                return True
            bill = msgspec.structs.replace(ask, only_bill=True)
            fetched = await self._ask(bill, within_s)
        session.past.billed = fetched.billed
        return False

    async def _ask(self, ask: FetchAnswer, within_s: float) -> AnswerFetched:
        actor = self._actor
        address = actor.tree.address(RESERVATION)
        try:
            if address is not None:
                fetched: AnswerFetched = await actor.ask(address, ask, min(ASK_S, within_s))
                return fetched
        except PeerLost:
            pass
        raise Draining("the reservation is gone, and this gateway restarts after it")

    def ended(self, error: TetherError | None) -> None:
        """A request has ended so."""
        if isinstance(error, AnswerGone):
            metrics.answers_gone.inc()

    def marked(
        self, item: Chunk | Completed, session: RequestSession, infer: Infer, *, held: bool
    ) -> Chunk | Completed:
        """The first item that a request is told: it says of an answer that was complete before
        that it is. `held`: its session had the answer when it came. One that comes back is told
        nothing: it has read the beginning when that was new."""
        if infer.is_resume or not (held or session.past.replayed):
            return item
        (self._memory if held else self._store if session.past.fetched else self._worker).inc()
        return msgspec.structs.replace(item, replayed=True)
