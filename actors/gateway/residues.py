"""What meters lacked that were forgotten: a tenant whose meter had to make room comes back to no
full bucket.

A bucket fills up in a minute whatever its limit, so what it lacks of the whole is a time: when it
would be full. What doesn't fit here any more makes all who come anew begin as the emptiest of it.

Pure.
"""

from __future__ import annotations

from collections import OrderedDict

from actors.gateway.share import MINUTE_S

Missing = tuple[float, float]
"""Of a bucket of requests, and of one of tokens: from 0 (full) to 1 (empty), or more (a debt)."""


class Residues:
    """The newest `bound` of them; times are the loop's."""

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._full_at: OrderedDict[str, Missing] = OrderedDict()
        self._others: Missing = (0.0, 0.0)  # when the emptiest of those would be full

    def __len__(self) -> int:
        return len(self._full_at)

    def keep(self, tenant_id: str, missing: Missing, now: float) -> None:
        """This tenant's meter is forgotten, and lacks so much."""
        if max(missing) <= 0:
            return
        self._full_at[tenant_id] = (now + missing[0] * MINUTE_S, now + missing[1] * MINUTE_S)
        self._full_at.move_to_end(tenant_id)
        while self._full_at:
            oldest = next(iter(self._full_at))
            requests, tokens = self._full_at[oldest]
            if max(requests, tokens) > now and len(self._full_at) <= self._bound:
                return
            del self._full_at[oldest]
            self._others = (max(self._others[0], requests), max(self._others[1], tokens))

    def take(self, tenant_id: str, now: float) -> Missing:
        """What a meter of this tenant lacks that begins now."""
        requests, tokens = self._full_at.pop(tenant_id, self._others)
        return max(0.0, requests - now) / MINUTE_S, max(0.0, tokens - now) / MINUTE_S
