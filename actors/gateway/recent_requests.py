"""The requests that a gateway is done with, for operators who look for one."""

from __future__ import annotations

from collections import deque
from typing import Final

from actors.contracts.operating import SessionState
from actors.gateway.request_session import RequestSession
from supervision.telemetry import bounds

REMEMBERED: Final = 2048
_Line = tuple[str, str, str, str, str, str, str, int, float, bool]


class RecentRequests:
    """The last requests that a gateway was done with, by the names they may be looked for."""

    def __init__(self, kept: int = REMEMBERED) -> None:
        self._lines: deque[_Line] = deque(maxlen=kept)
        self._used = bounds.used.labels("gateway_recent")

    def __len__(self) -> int:
        return len(self._lines)

    def add(self, session: RequestSession, now: float) -> None:
        """It has its outcome. Called once a request: keeps words, and makes nothing of them."""
        infer = session.infer
        self._lines.append(
            (
                session.job_id,
                session.tenant_id,
                infer.correlation_id,
                infer.retry_token,
                session.model_ref,
                str(session.outcome),
                session.worker_id,
                session.journal.tokens,
                now,
                session.explicit,
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
