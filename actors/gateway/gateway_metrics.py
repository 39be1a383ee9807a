"""The counts of a gateway, published a few times a second: a counter's lock per request would cost
more than all the rest of it."""

from __future__ import annotations

from actors.contracts import Outcome, Usage
from actors.gateway import metrics
from actors.gateway.request_session import RequestSession
from actors.gateway.session import Sessions
from supervision.errors import TetherError
from supervision.telemetry import bounds as bound_metrics
from supervision.telemetry.bounded_log import BoundedLog

heard = BoundedLog(__name__)


class GatewayMetrics:
    """Requests by outcome, tokens, time to the first token, and how full the bounds are."""

    def __init__(self) -> None:
        self._ended: dict[Outcome, int] = dict.fromkeys(Outcome, 0)
        self._tokens = [0, 0]
        self._outcomes = {outcome: metrics.requests.labels(outcome.value) for outcome in Outcome}
        self._prompt = metrics.request_tokens.labels("prompt")
        self._output = metrics.request_tokens.labels("output")
        self._first_token = metrics.first_token_seconds
        self.refused = bound_metrics.refused.labels("gateway_sessions")
        bounds = ("sessions", "tokens", "characters", "keys", "tenants", "key_questions")
        self._retries_used = bound_metrics.used.labels("gateway_retries")
        self._retries_refused = bound_metrics.refused.labels("gateway_retries")
        self._refused_retries = 0
        self._used = [bound_metrics.used.labels(f"gateway_{bound}") for bound in bounds]

    def ended(self, outcome: Outcome, usage: Usage, first_token_s: float | None) -> None:
        """A request has its outcome."""
        self._ended[outcome] += 1
        if outcome is not Outcome.FAILED:
            self._tokens[0] += usage.prompt_tokens
            self._tokens[1] += usage.completion_tokens
        if first_token_s is not None:
            self._first_token.observe(first_token_s)

    def moved(self, session: RequestSession, why: TetherError) -> None:
        """A request goes to another worker."""
        metrics.request_resumes.labels(why.code).inc()
        heard.info(
            "a request moves on",
            session.job_id,
            job_id=session.job_id,
            from_worker=session.worker_id,
            at_token=session.journal.tokens,
            why=why.code,
        )

    def publish(self) -> None:
        """What was counted since the last time."""
        for outcome, count in self._ended.items():
            if count:
                self._outcomes[outcome].inc(count)
                self._ended[outcome] = 0
        if any(self._tokens):
            self._prompt.inc(self._tokens[0])
            self._output.inc(self._tokens[1])
            self._tokens = [0, 0]

    def bounds(self, sessions: Sessions, keys: int, tenants: int, questions: int) -> None:
        """How full everything is."""
        held = (len(sessions), sessions.tokens, sessions.characters)
        values = (*held, keys, tenants, questions)
        for gauge, value in zip(self._used, values, strict=True):
            gauge.set(value)

    def retries(self, spent: int, refused: int) -> None:
        """How much of the retry budgets is spent, and how often that was not enough, ever."""
        self._retries_used.set(spent)
        if refused > self._refused_retries:
            self._retries_refused.inc(refused - self._refused_retries)
            self._refused_retries = refused
