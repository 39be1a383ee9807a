"""The requests of a gateway as operators see them: those that run, and some that are done."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from actors.gateway.flight import Flight
from actors.gateway.model_policies import ModelPolicies
from actors.gateway.surroundings import Surroundings
from actors.runtime import Address, on
from tether.contracts.operating import (
    FindRequest,
    PolicyStates,
    SessionState,
    SessionStates,
    ShowPolicies,
    ShowSessions,
)
from tether.core.session import Sessions
from tether.telemetry import metrics

if TYPE_CHECKING:
    from actors.runtime.operating import Operating

MAX_SHOWN: Final = 1000
REMEMBERED: Final = 2048  # requests that a gateway is done with
_Line = tuple[str, str, str, str, str, str, str, int, float, bool]


class Recent:
    """The last requests that a gateway was done with, by the names they may be looked for."""

    def __init__(self, kept: int = REMEMBERED) -> None:
        self._lines: deque[_Line] = deque(maxlen=kept)
        self._used = metrics.bound_used.labels("gateway_recent")

    def __len__(self) -> int:
        return len(self._lines)

    def add(self, flight: Flight, now: float) -> None:
        """It has its outcome. Called once a request: keeps words, and makes nothing of them."""
        infer = flight.infer
        self._lines.append(
            (
                flight.job_id,
                flight.tenant_id,
                infer.correlation_id,
                infer.retry_token,
                flight.model_ref,
                str(flight.outcome),
                flight.worker_id,
                flight.journal.tokens,
                now,
                flight.explicit,
            )
        )

    def publish(self) -> None:
        """To the gauge, now and then."""
        self._used.set(len(self._lines))

    def find(self, name: str, now: float) -> list[SessionState]:
        """Those of this client's id, job or retry token; the newest first."""
        return [
            SessionState(
                job_id=job_id,
                tenant_id=tenant_id,
                request_id=request_id,
                model_ref=model_ref,
                state=f"done: {outcome}",
                worker_id=worker_id,
                tokens=tokens,
                age_s=now - at,
                explicit=explicit,
            )
            for job_id, tenant_id, request_id, token, model_ref, outcome, worker_id, tokens, at,
            explicit in reversed(self._lines)
            if name in (job_id, request_id, token)
        ]  # fmt: skip


class ShowsSessions:
    """The part of a gateway that operators ask for its requests."""

    loop: asyncio.AbstractEventLoop
    _flights: set[Flight]
    _sessions: Sessions
    _surroundings: Surroundings
    _draining: bool
    _recent: Recent
    _policies: ModelPolicies
    _operating: Operating

    def described(self) -> dict[str, object]:
        """See `Actor.described`."""
        return {
            "sessions": len(self._sessions),
            "running": len(self._flights),
            "draining": self._draining,
            "models": " ".join(self._surroundings.ready),
        }

    @on(ShowSessions)
    def show_sessions(self, msg: ShowSessions, sender: Address) -> SessionStates:
        self._operating.allow(sender)
        flights = sorted(self._flights, key=_began)
        return SessionStates(
            sessions=tuple(self._states(flights[:MAX_SHOWN])), total=len(self._flights)
        )

    @on(FindRequest)
    def find_request(self, msg: FindRequest, sender: Address) -> SessionStates:
        self._operating.allow(sender)
        name = msg.request_id
        flights = sorted(
            (
                flight
                for flight in self._flights
                if name in (flight.job_id, flight.infer.correlation_id, flight.infer.retry_token)
            ),
            key=_began,
            reverse=True,
        )
        found = [*self._states(flights), *self._recent.find(name, self.loop.time())]
        return SessionStates(sessions=tuple(found[:MAX_SHOWN]), total=len(found))

    @on(ShowPolicies)
    def show_policies(self, msg: ShowPolicies, sender: Address) -> PolicyStates:
        self._operating.allow(sender)
        asked = msg.model_ref
        cards = (
            card
            for card in self._surroundings.index.catalog.models
            if asked in ("", card.name, card.ref)
        )
        found = tuple(self._policies.states(cards, self.loop.time()))
        return PolicyStates(policies=found[:MAX_SHOWN], total=len(found))

    def _states(self, flights: Iterable[Flight]) -> Iterable[SessionState]:
        now = self.loop.time()
        for flight in flights:
            if flight.left_at is not None:
                state = "left"
            else:
                state = "running" if flight.worker_id else "placing"
            yield SessionState(
                job_id=flight.job_id,
                tenant_id=flight.tenant_id,
                request_id=flight.infer.correlation_id,
                model_ref=flight.model_ref,
                state=state,
                worker_id=flight.worker_id,
                listeners=flight.listeners,
                prompt_tokens=len(flight.journal.prompt_ids),
                tokens=flight.journal.tokens,
                age_s=now - flight.since,
                explicit=flight.explicit,
            )


def _began(flight: Flight) -> float:
    return flight.since
