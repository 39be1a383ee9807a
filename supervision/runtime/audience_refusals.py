"""Contracts that somebody may not say: told to who asks, counted all, logged and audited now and
then (`supervision.telemetry.line_budget`), so that whoever repeats them fills no disk. And
whatever else was said in vain."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path
from typing import Final

from supervision.errors import Forbidden
from supervision.runtime import metrics
from supervision.runtime.address import Address
from supervision.runtime.peer import Peer
from supervision.security.audience import OWN, Audience
from supervision.security.name import OPERATOR
from supervision.telemetry import audit, logs
from supervision.telemetry.line_budget import LineBudget
from supervision.telemetry.metrics import Counter

COMMAND: Final = "say"  # of the lines in the audit log
LOG_S: Final = 60.0
LOG_LINES: Final = 64  # in that time, of one process
FAULT_LINES: Final = 16  # in that time: with a traceback each
MOST_SAID: Final = 500  # characters of a reason, which quotes what was sent
AUDIT_S: Final = 3600.0
AUDIT_LINES: Final = 32  # in that time, of one process: a hundred hours of them turn no log over
MAX_LABELS: Final = 256  # pairs of contract and node in the metric; further ones are "other"

log = logs.get(__name__)


class AudienceRefusals:
    """Those of the actor `who` at the address `here`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, here: Address, who: str) -> None:
        self._loop = loop
        self._here = here
        self._who = who
        self._lines = LineBudget(LOG_S, LOG_LINES)
        self._faults = LineBudget(LOG_S, FAULT_LINES)
        self._audited = LineBudget(AUDIT_S, AUDIT_LINES)
        self._counters: dict[tuple[str, str], Counter] = {}

    def refuse(self, peer: Peer, contract: str, audience: Audience) -> Forbidden:
        """What `peer` is told, which is not of the `audience` of `contract`."""
        node = peer.address.node
        self._counted(contract, node).inc()
        error = Forbidden(
            f"{_named(peer)} may not say {contract} to {self._who}: it is for {audience}"
        )
        now = self._loop.time()
        key = (contract, node)
        unsaid = self._lines.take(key, now)
        if unsaid is not None:
            log.warning(
                "refused a contract", contract=contract, by=str(peer.address), unsaid=unsaid,
                reason=error.message,
            )  # fmt: skip
        unsaid = self._audited.take(key, now)
        home = audit.home()
        if unsaid is not None and home is not None:
            who = audit.Who(certificate=node, pid=peer.address.pid)
            more = f", and {unsaid} times before" if unsaid else ""
            self._loop.run_in_executor(
                None, self._write, home, who, (contract, self._who), f"refused{more}"
            )
        return error

    def dropped(self, peer: Peer, error: Exception) -> None:
        """Something else that was told in vain."""
        unsaid = self._lines.take(self._key(peer, error), self._loop.time())
        if unsaid is not None:
            log.warning(
                "a message was dropped",
                actor=self._who,
                sender=str(peer.address),
                reason=str(error)[:MOST_SAID],
                unsaid=unsaid,
            )

    def broke(self, peer: Peer, error: Exception) -> None:
        """What somebody said has raised something that nobody foresaw. Called where it is caught,
        so that the line has its traceback."""
        unsaid = self._faults.take(self._key(peer, error), self._loop.time())
        if unsaid is not None:
            log.exception(
                "a handler failed", actor=self._who, sender=str(peer.address), unsaid=unsaid
            )

    def _key(self, peer: Peer, error: Exception) -> tuple[str, str]:
        """One kind of line for a process of the own node and each error; for another node, which
        has as many processes as it likes, one for all of them."""
        if peer.audience & OWN.mask:
            return str(peer.address), type(error).__name__
        return "", peer.address.node

    def _write(self, home: Path, who: audit.Who, words: tuple[str, ...], outcome: str) -> None:
        try:
            audit.Audit(home, who, self._here.node).write(uuid.uuid4().hex, COMMAND, words, outcome)
        except audit.Unwritable as error:
            metrics.unwritten.labels("audit").inc()
            log.error("a refusal is not in the audit log", error=str(error))

    def _counted(self, contract: str, node: str) -> Counter:
        found = self._counters.get((contract, node))
        if found is None:
            if len(self._counters) >= MAX_LABELS:
                contract = node = "other"
            found = metrics.contracts_refused.labels(contract, node)
            self._counters[contract, node] = found
        return found


def _named(peer: Peer) -> str:
    node = peer.address.node
    if node.startswith(OPERATOR):
        return node
    roles = Audience(peer.audience).roles
    return f"node {node} ({', '.join(roles) or 'which shows no roles'})"
