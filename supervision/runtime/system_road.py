"""The system road: Thespian's messages between this process and others, as bytes and back.

What another node may not say is refused, and isn't sent to one either. A message that is refused
changes nothing: it is acknowledged, so that it isn't sent again, counted by reason, and logged, at
most `MAX_TOLD` in `TOLD_S` seconds. Its sender stays connected, for all else that it says counts.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import Any, Final

from thespian.system.messages.admin import PendingActor, PendingActorResponse

from supervision.errors import ProtocolError
from supervision.runtime import metrics
from supervision.runtime.address import Address
from supervision.runtime.system_messages import decode, encode, row_of
from supervision.runtime.system_senders import Circumstances, Others, refusal
from supervision.telemetry import bounds, logs

MAX_AWAITED: Final = 4096  # actors that were asked for and haven't come
MAX_TOLD: Final = 10
TOLD_S: Final = 10.0

log = logs.get(__name__)
_malformed = metrics.system_refused.labels("malformed")
_sender = metrics.system_refused.labels("sender")
_unsent = metrics.system_refused.labels("unsent")
_forgotten = bounds.refused.labels("awaited_actors")


class SystemRoad:
    """Of the process at `here`, which another node, `guardian`, has had placed here if it isn't
    empty."""

    def __init__(self, here: Address, guardian: str = "") -> None:
        self._here = here
        self._guardian = guardian
        self._awaited: OrderedDict[int, None] = OrderedDict()  # by Thespian's number
        self._told: tuple[float, int] = (0.0, 0)  # since when, how many

    def write(self, message: Any, to: Address) -> bytes | None:
        """`message` for the process at `to`; None if it is none for another node.

        Raises:
            ProtocolError: it can't be said.
            CannotPickleAddress: it speaks of a child that isn't up yet.
        """
        payload = encode(message)
        if to.node != self._here.node and self._unfit(message, to):
            _unsent.inc()
            log.debug("kept from another node", message=type(message).__name__, to=str(to))
            return None
        if type(message) is PendingActor and self._mine(message.forActor):
            self._awaited[message.instanceNum] = None
            if len(self._awaited) > MAX_AWAITED:
                self._awaited.popitem(last=False)
                _forgotten.inc()
        return payload

    def read(self, sender: Address, payload: bytes) -> Any:
        """The message that the process at `sender` sent, an address that its connection vouches
        for.

        Raises:
            ProtocolError: it is none, or not for it to say. That is counted, and logged.
        """
        try:
            message = decode(payload)
        except ProtocolError as error:
            _malformed.inc()
            self._tell(sender, error.message)
            raise
        why = ""
        if sender.node != self._here.node:
            row = row_of(message)
            told = Circumstances(sender, self._here, self._guardian)
            why = refusal(row.others, row.checks, message, told)
        if type(message) is PendingActorResponse and not why:
            asked = self._awaited.pop(message.instanceNum, self) is None
            if not asked and sender.node != self._here.node:
                why = "nobody here waits for that actor"
        if why:
            _sender.inc()
            sentence = f"a {type(message).__name__} of {sender} is refused: {why}"
            self._tell(sender, sentence)
            raise ProtocolError(sentence)
        return message

    def _mine(self, asker: Any) -> bool:
        return asker is None or getattr(asker, "addressDetails", None) == self._here

    def _unfit(self, message: Any, to: Address) -> bool:
        """Would it be refused there, as far as is known here?"""
        row = row_of(message)
        if row.others is Others.GUARDIAN:
            return False
        return bool(refusal(row.others, row.checks, message, Circumstances(self._here, to, "")))

    def _tell(self, sender: Address, why: str) -> None:
        now = time.monotonic()
        since, told = self._told
        if now - since > TOLD_S:
            since, told = now, 0
        self._told = (since, told + 1)
        if told < MAX_TOLD:
            log.warning("refused a system message", peer=str(sender), reason=why[:500])
