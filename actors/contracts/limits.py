"""What a request may use at most, and what of its tenant's limits is left. Pure."""

from __future__ import annotations

from supervision.contracts.contract import Value


class Maximum(Value, frozen=True):
    """Bounds of what a request may use, in tokens: never fewer than the model counts, of its
    prompt, of its answer, and of both together. 0 in all: unknown, which no budget takes. Unless it
    is `exact`, the answer may be made to end earlier, where a budget affords no more."""

    prompt_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    exact: bool = True


class LimitState(Value, frozen=True):
    """A tenant's limits of requests and of tokens a minute, as a request has left them: how much
    there is in all (0: no limit), what is left, and in how many seconds all of it is back."""

    limit_requests: int = 0
    remaining_requests: int = 0
    reset_requests_s: float = 0.0
    limit_tokens: int = 0
    remaining_tokens: int = 0
    reset_tokens_s: float = 0.0
