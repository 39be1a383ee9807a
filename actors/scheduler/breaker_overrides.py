"""Circuit-breaker overrides, kept across scheduler restarts."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress

from actors.contracts import BreakerState, BreakerStates, SetBreaker
from actors.contracts.operating import KeepBreakers
from actors.scheduler.worker_breakers import ALL, Key, WorkerBreakers
from supervision.child import Supervised
from supervision.errors import Overloaded, TetherError, Unavailable
from supervision.policies import Mode
from supervision.telemetry import logs

log = logs.get(__name__)

ASK_S = 5.0
PAUSE_S = 1.0


class BreakerOverrides:
    """Reservation keeps it: words about a worker's model, or about all of a worker."""

    def __init__(self, actor: Supervised, breakers: WorkerBreakers) -> None:
        self._actor = actor
        self._breakers = breakers
        self._said: dict[Key, Mode] = {}
        """Since the start, in order, as long as what was said before isn't known."""
        self._known = False
        self._unwritten: dict[Key, BreakerState] = {}
        self._one_by_one = asyncio.Lock()  # the last word said is the last one written down
        self._writer: asyncio.Task[None] | None = None

    async def recall(self) -> None:
        """Set all as they were. Where reservation can't say it now, it is asked until it does."""
        try:
            self._recalled(await self._ask(KeepBreakers()))
        except TetherError as error:
            log.warning("breakers that operators set aren't known yet", error=error.message)
            self._actor.background(self._later(), name="breakers")

    async def keep(self, said: SetBreaker) -> None:
        """An operator has just said this.

        Raises:
            Unavailable: it couldn't be written down yet; that is tried on.
        """
        key = said.worker_id, said.model_ref
        for words in (self._said, self._unwritten):
            for each in _covered(key, words):
                del words[each]
        if not self._known:
            self._said[key] = Mode(said.mode)
        self._unwritten[key] = BreakerState(
            worker_id=said.worker_id, model_ref=said.model_ref, mode=said.mode, state=""
        )
        try:
            await self._write()
        except BaseException as error:  # also that nobody waits for it any more: it is set
            if self._writer is None or self._writer.done():
                self._writer = self._actor.background(self._write_later(), name="breakers")
            if not isinstance(error, TetherError):
                raise
            raise Unavailable(
                f"the breaker is set, and not written down yet ({error.message}): a scheduler that "
                "restarts now forgets it",
                retry_after_s=1.0,
            ) from error

    async def _write(self) -> None:
        async with self._one_by_one:
            states = tuple(self._unwritten.values())
            if states:
                await self._ask(KeepBreakers(breakers=states))
            for state in states:
                key = state.worker_id, state.model_ref
                if self._unwritten.get(key) is state:
                    del self._unwritten[key]

    async def _write_later(self) -> None:
        while self._unwritten:
            await asyncio.sleep(PAUSE_S)
            with suppress(TetherError):
                await self._write()

    async def _ask(self, ask: KeepBreakers) -> BreakerStates:
        reservation = self._actor.needs["reservation"]
        kept: BreakerStates = await self._actor.ask(reservation, ask, timeout=ASK_S)
        return kept

    async def _later(self) -> None:
        while True:
            await asyncio.sleep(PAUSE_S)
            with suppress(TetherError):
                self._recalled(await self._ask(KeepBreakers()))
                return

    def _recalled(self, kept: BreakerStates) -> None:
        """What was said since goes before it."""
        words = {(state.worker_id, state.model_ref): state.mode for state in kept.breakers}
        since, self._said, self._known = self._said, {}, True
        for key in since:
            for each in _covered(key, words):
                del words[each]
        ordered = sorted(words.items())  # a worker's own before those of its models
        for key, mode in [*ordered, *since.items()]:
            try:
                self._breakers.say(*key, Mode(mode), self._actor.loop.time())
            except (Overloaded, ValueError) as error:
                log.error("a breaker stays automatic", worker_id=key[0], error=str(error))
                continue
            log.warning("breaker set", worker_id=key[0], model=key[1], mode=mode)


def _covered(key: Key, words: Iterable[Key]) -> list[Key]:
    """Those of `words` that a new one about `key` takes the place of."""
    return [each for each in words if each == key or (key[1] == ALL and each[0] == key[0])]
