"""Admission of a request: it passes all that comes before a session, or nothing is counted."""

from __future__ import annotations

import msgspec

from actors.contracts import Computed, Infer, JobState, LimitState, ModelCard, Usage
from actors.core.node_roles import Role
from actors.gateway.admission import TenantAdmission
from actors.gateway.computed_usage import BrokenOff, ComputedUsage
from actors.gateway.continuation import go_on
from actors.gateway.fleet_view import FleetView
from actors.gateway.gateway_metrics import GatewayMetrics
from actors.gateway.keyring import Caller
from actors.gateway.model_concurrency import ModelConcurrency
from actors.gateway.model_policies import ModelPolicies
from actors.gateway.options import GatewayOptions
from actors.gateway.request_session import RequestSession
from actors.gateway.request_validation import ValidRequest, valid_request
from actors.gateway.session import Sessions
from actors.gateway.session_host import SessionHost
from supervision.errors import (
    BadRequest,
    DeadlineExceeded,
    Draining,
    Overloaded,
    RateLimited,
    TetherError,
)
from supervision.runtime import Address, on

MAX_TOKEN_LENGTH = 255


class RequestAdmission:
    """The tenants' limits, the bounds of models' policies, the policies of attempts, and a place
    in the table of sessions, in this order; and what is charged at the end."""

    def __init__(
        self,
        host: SessionHost[RequestSession],
        options: GatewayOptions,
        *,
        sessions: Sessions,
        fleet: FleetView,
        metrics: GatewayMetrics,
        tenants: TenantAdmission,
    ) -> None:
        self._host = host
        self._max_deadline_s = options.max_deadline_s
        self._sessions = sessions
        self._fleet = fleet
        self._metrics = metrics
        self._concurrency = ModelConcurrency()
        self._computed = ComputedUsage()
        self.tenants = tenants
        self.policies = ModelPolicies(options.policies)

    def enter(self, msg: Infer, caller: Caller, now: float) -> RequestSession:
        """A new session, counted and entered everywhere; `leave` must follow.

        Raises:
            BadRequest, ModelNotFound, DeadlineExceeded: the request is at fault.
            RateLimited: the tenant's limits, or a policy of the model.
            Overloaded: there is no room.
            ShareShort: the store must be asked first.
        """
        if not 0 < len(msg.retry_token) <= MAX_TOKEN_LENGTH or "\0" in msg.retry_token:
            raise BadRequest(
                f"an idempotency key has 1 to {MAX_TOKEN_LENGTH} characters, none of them NUL",
                param="Idempotency-Key",
            )
        if not msg.deadline_s > 0:
            raise DeadlineExceeded("the request came after its deadline")
        tenant_id = caller.tenant_id
        asked = self._validated(msg, tenant_id)
        card, tokens = asked.card, asked.tokens
        resumed = _resumed(msg)
        self._admit(caller, tokens, now, resumed=resumed)
        taken = 0 if resumed else tokens
        try:
            self._concurrency.enter(tenant_id, card, resumed=resumed)
        except TetherError:
            self.tenants.leave(tenant_id, taken, now)
            raise
        passes = self.policies.of(card, now)
        stack = passes.counting if resumed else passes.stack
        session = RequestSession(
            self._host,
            msg,
            tenant_id=tenant_id,
            card=card,
            sampling=asked.sampling,
            now=now,
            call=stack.begin(now + min(msg.deadline_s, self._max_deadline_s)),
            key_id=caller.key_id,
        )
        session.charged = tokens
        ended = self._sessions.ended(session.key)
        if isinstance(ended, RequestSession):
            go_on(session, ended)
            self._sessions.drop(ended)
        try:
            self._make_room(session, asked.characters)
            session.placement.admit(now)
        except TetherError:
            self._sessions.drop(session)
            self._concurrency.leave(tenant_id, card)
            self.tenants.leave(tenant_id, taken, now)
            raise
        return session

    def join(self, session: RequestSession, msg: Infer, caller: Caller, now: float) -> bool:
        """One more request for the answer of a session that is there; whether it runs beside those
        that listen already, and `joined_leaves` must follow. Who comes back alone takes the place
        that the session has kept, and who was let in before isn't counted again.

        Raises:
            RateLimited, ShareShort: as `enter`.
        """
        if _resumed(msg):
            return False
        beside = session.outcome is not None or session.reading.listeners > 0
        self._admit(caller, 0, now, runs=beside)
        return beside

    def joined_leaves(self, tenant_id: str, now: float) -> None:
        """One that has joined reads no more."""
        self.tenants.leave(tenant_id, 0, now)

    def _admit(
        self, caller: Caller, tokens: int, now: float, *, resumed: bool = False, runs: bool = True
    ) -> None:
        try:
            self.tenants.admit(
                caller.tenant_id, caller.limits, tokens, now, resumed=resumed, runs=runs
            )
        except RateLimited as error:
            state = self.state_of(caller.tenant_id, now)
            if state is not None:
                error.details |= msgspec.structs.asdict(state)
            raise

    def state_of(self, tenant_id: str, now: float) -> LimitState | None:
        """What is left of a tenant's limits; None where it has none."""
        meter = self.tenants.meter(tenant_id)
        return None if meter is None else meter.state(now)

    def _make_room(self, session: RequestSession, characters: int) -> None:
        try:
            self._sessions.open(session, characters)
        except Overloaded:
            self._metrics.refused.inc()
            raise

    def leave(self, session: RequestSession, usage: Usage, now: float) -> None:
        """It has ended, and used that much, as far as its gateway knows."""
        tenant_id, charged = session.tenant_id, session.charged
        unused = charged - usage.prompt_tokens - usage.completion_tokens
        assignment, error = session.placement.assignment, session.error
        begun_elsewhere = assignment is not None and assignment.state is not JobState.NEW
        if isinstance(error, Draining):
            unused = 0  # the gateway that takes it up again settles it
        elif begun_elsewhere and not _resumed(session.infer):
            unused = charged  # charged to the request that has begun it
        elif session.worker_id and session.broken_off:
            node = session.worker_address.partition("/")[0]
            broken = BrokenOff(tenant_id, charged, node)
            unused = -self._computed.expect(session.job_id, broken, now)
        self.tenants.leave(tenant_id, unused, now)
        self._concurrency.leave(tenant_id, session.card)

    @on(Computed, of=Role.WORKER)
    def computed(self, msg: Computed, sender: Address) -> None:
        """What was computed of an answer that was broken off, or is about to be."""
        now = self._host.loop.time()
        found = self._computed.heard(msg.job_id, msg.usage, sender.node, now)
        if found is not None:
            self.tenants.charge(*found, now)

    def another(self, session: RequestSession) -> ModelCard | None:
        """See `SessionHost.another`; the session counts as one of that version from now on."""
        tenant_id = session.tenant_id
        try:
            card = self._validated(session.infer, tenant_id).card  # it may be able to do less
        except TetherError:
            return None
        if card.ref == session.model_ref:
            return None
        self._concurrency.leave(tenant_id, session.card)
        self._concurrency.enter(tenant_id, card, resumed=True)
        return card

    def _validated(self, infer: Infer, tenant_id: str) -> ValidRequest:
        fleet = self._fleet
        card = fleet.index.resolve(infer.model_ref, tenant_id, infer.retry_token, fleet.alive)
        return valid_request(infer, card, tenant_id, fleet.abilities)

    def publish(self, keys: int, questions: int) -> None:
        """How full everything is, now and then; `keys` are those that are remembered, `questions`
        look-ups of strangers' under way."""
        self._metrics.bounds(self._sessions, keys, len(self.tenants), questions)
        self._metrics.retries(*self.policies.retries())

    def sweep(self, now: float) -> None:
        """Forget what was waited for long enough."""
        self._computed.sweep(now)


def _resumed(msg: Infer) -> bool:
    """Was it let in before, by this gateway or another one?"""
    return msg.from_seq > 0 or msg.is_resume
