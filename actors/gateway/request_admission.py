"""Admission of a request: it passes all that comes before a session, or nothing is counted."""

from __future__ import annotations

from actors.contracts import Infer, ModelCard, Usage
from actors.gateway.admission import TenantAdmission
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
from supervision.errors import BadRequest, DeadlineExceeded, Overloaded, TetherError

MAX_TOKEN_LENGTH = 255


class RequestAdmission:
    """The tenants' limits, the bounds of models' policies, the policies of attempts, and a place
    in the table of sessions, in this order."""

    def __init__(
        self,
        host: SessionHost[RequestSession],
        options: GatewayOptions,
        *,
        sessions: Sessions,
        fleet: FleetView,
        metrics: GatewayMetrics,
    ) -> None:
        self._host = host
        self._max_deadline_s = options.max_deadline_s
        self._sessions = sessions
        self._fleet = fleet
        self._metrics = metrics
        self._concurrency = ModelConcurrency()
        self.tenants = TenantAdmission(options.tenants)
        self.policies = ModelPolicies(options.policies)

    def enter(self, msg: Infer, caller: Caller, now: float) -> RequestSession:
        """A new session, counted and entered everywhere; `leave` must follow.

        Raises:
            BadRequest, ModelNotFound, DeadlineExceeded: the request is at fault.
            RateLimited: the tenant's limits, or a policy of the model.
            Overloaded: there is no room.
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
        card, tokens, resumed = asked.card, asked.tokens, msg.from_seq > 0
        self.tenants.admit(tenant_id, caller.limits, tokens, now, resumed=resumed)
        try:
            self._concurrency.enter(tenant_id, card, resumed=resumed)
        except TetherError:
            self.tenants.leave(tenant_id, tokens, now)
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
        )
        session.charged = tokens
        ended = self._sessions.ended(session.key)
        if isinstance(ended, RequestSession):
            session.go_on(ended)
            self._sessions.drop(ended)
        try:
            self._make_room(session, asked.characters)
            session.placement.admit(now)
        except TetherError:
            self._sessions.drop(session)
            self._concurrency.leave(tenant_id, card)
            self.tenants.leave(tenant_id, tokens, now)
            raise
        return session

    def _make_room(self, session: RequestSession, characters: int) -> None:
        try:
            self._sessions.open(session, characters)
        except Overloaded:
            self._metrics.refused.inc()
            raise

    def leave(self, session: RequestSession, usage: Usage, now: float) -> None:
        """It has ended, and used that much."""
        unused = session.charged - usage.prompt_tokens - usage.completion_tokens
        self.tenants.leave(session.tenant_id, unused, now)
        self._concurrency.leave(session.tenant_id, session.card)

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
