"""What was computed of an answer that nobody waits for any more. Pure."""

from __future__ import annotations

from actors.contracts.inference import Usage
from supervision.contracts.contract import Contract


class Computed(Contract, frozen=True):
    """Worker → gateway, told: what was computed of an answer that its gateway has broken off, or
    that was late. Of a whole answer, which is said at its end, nobody else would know."""

    job_id: str
    usage: Usage
