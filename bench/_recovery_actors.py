"""The actors of `bench/recovery.py`, importable by the processes they run in."""

from __future__ import annotations

import os
from typing import Any

from thespian.actors import Actor as ThespianActor
from thespian.actors import ChildActorExited

from supervision.child import Supervised
from supervision.contracts import Contract
from supervision.runtime import Address, on


class WhoAnswers(Contract, frozen=True):
    """Asks for the pid."""

    number: int


class Answers(Contract, frozen=True):
    number: int
    pid: int


class RecoveryEcho(Supervised):
    """Ours."""

    @on(WhoAnswers)
    def who(self, msg: WhoAnswers, sender: Address) -> Answers:
        return Answers(number=msg.number, pid=os.getpid())


class PlainEcho(ThespianActor):
    """Thespian's: answers (number, asker) to the asker."""

    def receiveMessage(self, msg: Any, sender: Any) -> None:  # noqa: N802
        if isinstance(msg, tuple):
            number, asker = msg
            self.send(asker, (number, os.getpid()))


class PlainParent(ThespianActor):
    """Creates its child anew when it has exited, and passes questions on to it."""

    child: Any = None

    def receiveMessage(self, msg: Any, sender: Any) -> None:  # noqa: N802
        if isinstance(msg, ChildActorExited):
            self.child = self.createActor(PlainEcho)
        elif isinstance(msg, int):
            self.child = self.child or self.createActor(PlainEcho)
            self.send(self.child, (msg, sender))
