"""Metrics of the requests that a gateway is done with. Children are bound where they are used,
never per request."""

from __future__ import annotations

from supervision.telemetry.metrics import Counter, Histogram

requests = Counter(
    "tether_requests_total", "Requests that a gateway is done with, by outcome", ["outcome"]
)
request_tokens = Counter(
    "tether_request_tokens_total", "Tokens of completed and cancelled requests", ["kind"]
)
request_resumes = Counter(
    "tether_request_resumes_total", "Attempts after the first, by why the one before ended", ["why"]
)
replays = Counter(
    "tether_replays_total",
    "Answers said again to who sent their idempotency key again, by who had them",
    ["held_by"],
)
answers_gone = Counter(
    "tether_answers_gone_total", "Requests whose answer was billed and is kept nowhere any more"
)
answers_damaged = Counter(
    "tether_answers_damaged_total", "Kept answers whose bytes are not what was kept"
)
first_token_seconds = Histogram(
    "tether_first_token_seconds",
    "From a request's arrival at the gateway to its first token",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
