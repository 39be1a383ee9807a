"""The headers that tell a client what is left of its limits: OpenAI's, and those of the IETF.

`x-ratelimit-{limit,remaining,reset}-{requests,tokens}`, whose reset is a duration such as `1s` or
`6m0s` (platform.openai.com/docs/guides/rate-limits), and `RateLimit-Policy` and `RateLimit`
(draft-ietf-httpapi-ratelimit-headers-11), whose `t` are whole seconds. Both count until all is
back.

Pure.
"""

from __future__ import annotations

import math
from functools import lru_cache

from actors.contracts import LimitState
from supervision.errors import TetherError

Headers = list[tuple[bytes, bytes]]
_NAMES = LimitState.__struct_fields__


def limit_headers(state: LimitState | None) -> Headers:
    """Nothing where the tenant has no limit."""
    if state is None:
        return []
    requests, tokens = state.limit_requests, state.limit_tokens
    headers = list(_limits(requests, tokens))
    left = b""
    if requests:
        count, reset_s = state.remaining_requests, state.reset_requests_s
        headers.append((b"x-ratelimit-remaining-requests", b"%d" % count))
        headers.append((b"x-ratelimit-reset-requests", duration(reset_s)))
        left = b'"requests";r=%d;t=%d' % (count, math.ceil(reset_s))
    if tokens:
        count, reset_s = state.remaining_tokens, state.reset_tokens_s
        headers.append((b"x-ratelimit-remaining-tokens", b"%d" % count))
        headers.append((b"x-ratelimit-reset-tokens", duration(reset_s)))
        of_tokens = b'"tokens";r=%d;t=%d' % (count, math.ceil(reset_s))
        left = left + b", " + of_tokens if left else of_tokens
    if left:
        headers.append((b"ratelimit", left))
    return headers


@lru_cache(maxsize=1024)
def _limits(requests: int, tokens: int) -> tuple[tuple[bytes, bytes], ...]:
    """The headers that are the same for all answers under these limits."""
    headers: Headers = []
    policy: list[bytes] = []
    for what, limit in ((b"requests", requests), (b"tokens", tokens)):
        if limit:
            headers.append((b"x-ratelimit-limit-" + what, b"%d" % limit))
            policy.append(b'"%s";q=%d;w=60' % (what, limit))
    if policy:
        headers.append((b"ratelimit-policy", b", ".join(policy)))
    return tuple(headers)


def state_in(error: TetherError) -> LimitState | None:
    """What an error says of the limits, if it does."""
    details = error.details
    if not details or "limit_requests" not in details:
        return None
    found = {name: details[name] for name in _NAMES if isinstance(details.get(name), int | float)}
    return LimitState(**found)  # type: ignore[arg-type]


def duration(seconds: float) -> bytes:
    """As OpenAI writes it: `12ms`, `1.5s`, `6m0s`, `1h0m0s`."""
    if seconds < 1:
        return b"%dms" % math.ceil(seconds * 1000)
    if seconds < 60:
        return b"%gs" % (math.ceil(seconds * 1000) / 1000)
    whole = math.ceil(seconds)
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return b"%dm%ds" % (minutes, rest)
    return b"%dh%dm%ds" % (*divmod(minutes, 60), rest)
