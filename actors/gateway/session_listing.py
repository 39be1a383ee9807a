"""The requests of a gateway, and what they pass, as operators see them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Final

from actors.contracts.operating import (
    FindRequest,
    PolicyStates,
    SessionState,
    SessionStates,
    ShowPolicies,
    ShowSessions,
)
from actors.gateway.fleet_view import FleetView
from actors.gateway.model_policies import ModelPolicies
from actors.gateway.recent_requests import RecentRequests
from actors.gateway.request_session import RequestSession
from supervision.child import Supervised
from supervision.runtime import Address, on
from supervision.security.audience import OPERATOR

MAX_SHOWN: Final = 1000


class SessionListing:
    """The part of a gateway that operators ask.

    Args:
        running: its sessions without an end.
    """

    def __init__(
        self,
        actor: Supervised,
        *,
        running: Collection[RequestSession],
        recent: RecentRequests,
        policies: ModelPolicies,
        fleet: FleetView,
    ) -> None:
        self._loop = actor.loop
        self._running = running
        self._recent = recent
        self._policies = policies
        self._fleet = fleet

    @on(ShowSessions, of=OPERATOR)
    def show_sessions(self, msg: ShowSessions, sender: Address) -> SessionStates:
        oldest = sorted(self._running, key=_began)[:MAX_SHOWN]
        return SessionStates(sessions=tuple(self._states(oldest)), total=len(self._running))

    @on(FindRequest, of=OPERATOR)
    def find_request(self, msg: FindRequest, sender: Address) -> SessionStates:
        name = msg.request_id
        running = sorted(
            (
                session
                for session in self._running
                if name in (session.job_id, session.infer.correlation_id, session.infer.retry_token)
            ),
            key=_began,
            reverse=True,
        )
        found = [*self._states(running), *self._recent.find(name, self._loop.time())]
        return SessionStates(sessions=tuple(found[:MAX_SHOWN]), total=len(found))

    @on(ShowPolicies, of=OPERATOR)
    def show_policies(self, msg: ShowPolicies, sender: Address) -> PolicyStates:
        asked = msg.model_ref
        cards = (
            card for card in self._fleet.index.catalog.models if asked in ("", card.name, card.ref)
        )
        found = tuple(self._policies.states(cards, self._loop.time()))
        return PolicyStates(policies=found[:MAX_SHOWN], total=len(found))

    def _states(self, sessions: Iterable[RequestSession]) -> Iterator[SessionState]:
        now = self._loop.time()
        for session in sessions:
            reading, journal = session.reading, session.journal
            if reading.left_at is not None:
                state = "left"
            else:
                state = "running" if session.worker_id else "placing"
            yield SessionState(
                job_id=session.job_id,
                tenant_id=session.tenant_id,
                request_id=session.infer.correlation_id,
                model_ref=session.model_ref,
                state=state,
                worker_id=session.worker_id,
                listeners=reading.listeners,
                prompt_tokens=len(journal.prompt_ids),
                tokens=journal.tokens,
                age_s=now - session.since,
                explicit=session.explicit,
            )


def _began(session: RequestSession) -> float:
    return session.since
