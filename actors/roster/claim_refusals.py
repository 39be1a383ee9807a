"""Claims of other nodes that aren't taken: counted when they come, logged and audited now and then
(`supervision.telemetry.line_budget`)."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path
from typing import Final

from actors.roster import metrics
from actors.roster.roster_view import Claim
from supervision.telemetry import audit, logs
from supervision.telemetry.line_budget import LineBudget

COMMAND: Final = "claim"  # of the lines in the audit log
LOG_S: Final = 60.0
LOG_LINES: Final = 16  # in that time
AUDIT_S: Final = 3600.0
AUDIT_LINES: Final = 32  # in that time
MAX_KNOWN: Final = 4096  # claims that stand; further ones are counted again at each change

log = logs.get(__name__)


class ClaimRefusals:
    """Those that the roster of `node` hears."""

    def __init__(self, loop: asyncio.AbstractEventLoop, node: str) -> None:
        self._loop = loop
        self._node = node
        self._standing: tuple[Claim, ...] = ()
        self._known: frozenset[Claim] = frozenset()
        self._lines = LineBudget(LOG_S, LOG_LINES)
        self._audited = LineBudget(AUDIT_S, AUDIT_LINES)

    def see(self, claims: tuple[Claim, ...], now: float) -> None:
        """These stand now."""
        if claims is self._standing:
            return
        self._standing = claims
        metrics.fleet_conflicts.set(sum(bool(claim.ref) for claim in claims))
        for claim in claims:
            if claim not in self._known:
                self._refuse(claim, now)
        self._known = frozenset(claims[:MAX_KNOWN])

    def _refuse(self, claim: Claim, now: float) -> None:
        what = "digest" if claim.ref else "name"
        metrics.claims_refused.labels(what).inc()
        key = (what, claim.node)
        unsaid = self._lines.take(key, now)
        if unsaid is not None:
            log.warning(
                "a worker of another node isn't taken for what it says",
                node=claim.node, worker_id=claim.worker_id, model=claim.ref, what=what,
                unsaid=unsaid,
            )  # fmt: skip
        unsaid = self._audited.take(key, now)
        home = audit.home()
        if unsaid is not None and home is not None:
            more = f", and {unsaid} others before" if unsaid else ""
            words = (claim.worker_id, claim.ref) if claim.ref else (claim.worker_id,)
            self._loop.run_in_executor(None, self._write, home, claim.node, words, f"refused{more}")

    def _write(self, home: Path, node: str, words: tuple[str, ...], outcome: str) -> None:
        try:
            log_ = audit.Audit(home, audit.Who(certificate=node), self._node)
            log_.write(uuid.uuid4().hex, COMMAND, words, outcome)
        except audit.Unwritable as error:
            log.error("a refusal is not in the audit log", error=str(error))
