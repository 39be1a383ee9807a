"""The models in a worker's memory: which to load and let go, by demand, pins and a byte budget.

A state machine: the shell says what has happened, `plan` says what to begin, and the shell reports
how that went. What a model weighs counts from the moment its load begins until its engine is
closed, so that what leaves and what comes never share the same bytes.

1. What isn't offered any more, or is something else by now, goes as soon as no run holds it.
2. Pinned models are loaded first, and room is kept for them; they go by rule 1 only. Pins that
   don't fit together with those before them are none.
3. Then what runs wait for, the oldest wait first. For these and for pinned ones the least recently
   used models without runs go, but none that was loaded less than `keep_s` ago.
4. A canary may push out what nobody has used for `idle_s`, and no other canary.
5. All else is loaded as there is room, unless a run waits for some; it pushes out nothing.

Without demand this comes to rest: what a canary pushed out comes back by demand, or into free room.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from actors.worker.model_state import Close, Load, ModelPhase, ModelState, Step, Wish
from actors.worker.room import Room, enough

LOADS: Final = 2  # at once; one of them at most for which no run waits
FIRST_RETRY_S: Final = 2.0
MOST_RETRY_S: Final = 300.0


class ModelCache:
    """The models of one worker. `budget` is in bytes, 0 for none; all times are the caller's clock,
    in seconds.

    Raises:
        ValueError: a bound is negative.
    """

    def __init__(self, budget: int, *, keep_s: float = 5.0, idle_s: float = 60.0) -> None:
        if budget < 0 or keep_s < 0 or idle_s < 0:
            raise ValueError("budget, keep_s and idle_s of a warm pool must not be negative")
        self.budget = budget
        self._keep_s = keep_s
        self._idle_s = idle_s
        self._models: dict[str, ModelState] = {}
        self._order: tuple[ModelState, ...] = ()
        self._about: tuple[str, ...] = ()
        self._restless = False
        self._room = Room(budget, self._models)

    # ---- what there is

    @property
    def held(self) -> int:
        """Bytes of all that is here, comes or goes."""
        return self._room.held

    @property
    def warm(self) -> tuple[str, ...]:
        """What answers."""
        return tuple(m.ref for m in self._order if m.phase is ModelPhase.WARM and not m.stale)

    @property
    def loading(self) -> tuple[str, ...]:
        """What is on its way, or will be as soon as others have made way for it."""
        return tuple(
            ref
            for ref in self._about
            if (m := self._models.get(ref))
            and m.wish is not None
            and m.phase in (ModelPhase.OUT, ModelPhase.LOADING)
            and not (m.fault and m.phase is ModelPhase.OUT)
        )

    def loadable(self, now: float) -> tuple[str, ...]:
        """What would be loaded for a run, and isn't on its way."""
        here = {*self.warm, *self.loading}
        return tuple(
            m.ref
            for m in self._order
            if m.ref not in here and not self._room.unfit(m) and m.retry_at <= now
        )

    @property
    def faults(self) -> dict[str, str]:
        """What could not be loaded the last time, and why."""
        return {m.ref: m.fault for m in self._order if m.fault}

    @property
    def alive(self) -> bool:
        """Is anything here, on its way, or still to be tried?"""
        return any(
            m.phase is not ModelPhase.OUT or not (m.failures or self._room.unfit(m))
            for m in self._order
        )

    @property
    def restless(self) -> bool:
        """Would `plan` have something to do once a model is idle?"""
        return self._restless

    def unfit(self, ref: str) -> str:
        """Why it will never fit; empty if it may."""
        m = self._models.get(ref)
        return "" if m is None or m.wish is None else self._room.unfit(m)

    def refusal(self, ref: str, now: float) -> str:
        """Why it can't be had here now; empty if it can."""
        m = self._models.get(ref)
        if m is None or m.wish is None:
            return f"this worker doesn't run {ref}"
        if m.phase is ModelPhase.OUT:
            if unfit := self._room.unfit(m):
                return unfit
            if m.retry_at > now:
                return f"{ref} can't be loaded here ({m.fault}); it is tried again later"
        return ""

    def size(self, ref: str) -> int:
        """The bytes that it takes, or would; 0 where that isn't known."""
        m = self._models.get(ref)
        return m.size if m else 0

    # ---- what happens

    def wish(self, wishes: Iterable[Wish]) -> dict[str, int]:
        """All that may run here from now on; the pinned first, then by rank, then as given. What
        has changed and changed back in time answers again: how many waiting runs have it now."""
        kept = {wish.ref: wish for wish in wishes}
        for m in self._models.values():
            m.wish, m.pinned = None, False
        order = []
        served: dict[str, int] = {}
        for wish in sorted(kept.values(), key=lambda w: (not w.pinned, w.rank)):
            m = self._models.setdefault(wish.ref, ModelState(wish))
            m.wish = wish
            if m.stale and m.phase is ModelPhase.OUT:
                m.renew()
            elif wish.certain and not m.stale:
                m.size = wish.size
            if m.waits and m.phase is ModelPhase.WARM and not m.stale:
                served[m.ref] = self._serve(m)
            order.append(m)
        self._order = tuple(order)
        self._room.pin(self._order)
        self._forget()
        return served

    def ask(self, ref: str, now: float) -> bool:
        """A run wants it: True, it has it, or False, it waits. `refusal` was empty."""
        m = self._models[ref]
        m.used_at = now
        if m.phase is ModelPhase.WARM and not m.stale:
            m.holds += 1
            return True
        if not m.waits:
            m.asked_at = now
        m.waits += 1
        return False

    def give_up(self, ref: str) -> None:
        """A run waits no longer."""
        m = self._models.get(ref)
        if m is not None and m.waits:
            m.waits -= 1

    def leave(self, ref: str, now: float) -> None:
        """A run that had it is over."""
        m = self._models[ref]
        m.holds -= 1
        m.used_at = now
        if m.wish is None:
            self._forget()

    def loaded(self, ref: str, size: int, now: float) -> int:
        """It answers, and takes so many bytes (0: not known). How many waiting runs have it now."""
        m = self._models[ref]
        m.phase = ModelPhase.WARM
        m.failures, m.retry_at, m.fault = 0, 0.0, ""
        m.loaded_at = m.used_at = now
        self.resize(ref, size)
        return 0 if m.stale else self._serve(m)

    def resize(self, ref: str, size: int) -> None:
        """It was measured. What its card says counts for more."""
        m = self._models.get(ref)
        if m is not None and size and not (m.wish is not None and m.wish.certain):
            m.size = size
            self._room.pin(self._order)

    def failed(self, ref: str, why: str, now: float) -> None:
        """It could not be loaded; nobody waits for it any more."""
        m = self._models[ref]
        m.waits = 0
        m.failures += 1
        m.fault = why
        m.retry_at = now + min(MOST_RETRY_S, FIRST_RETRY_S * 2.0 ** min(16, m.failures - 1))
        self.closed(ref)

    def lost(self, ref: str) -> None:
        """Its engine broke; the shell closes it."""
        m = self._models.get(ref)
        if m is not None and m.phase is ModelPhase.WARM:
            m.phase = ModelPhase.CLOSING

    def closed(self, ref: str) -> None:
        """Its engine is gone, and its bytes are free."""
        m = self._models[ref]
        m.phase = ModelPhase.OUT
        if m.wish is not None and m.stale:
            m.renew()
        self._forget()

    # ---- what to do

    def plan(self, now: float) -> list[Step]:
        """What to begin now. Ask again after anything has happened, and a few times a second, since
        `keep_s`, `idle_s` and the pause after a failure pass by themselves."""
        self._room.pin(self._order)
        gone = [m for m in self._models.values() if m.phase is ModelPhase.WARM and m.stale]
        steps: list[Step] = [
            self._close(m, "retired" if m.wish is None else "changed") for m in gone if not m.holds
        ]
        over = self.held - self._room.coming - self.budget
        if self.budget and over > 0:  # something is larger than it seemed
            idle = sorted(self._room.idle(), key=lambda m: m.used_at)
            steps += [self._close(m, "room") for m in enough(idle, over) or idle]
        steps += self._loads(now)
        self._restless = bool(
            any(
                m.stale or m.waits
                for m in self._models.values()
                if m.phase is not ModelPhase.LOADING
            )
            or (self.budget and self.held > self.budget)
        )
        return steps

    def _loads(self, now: float) -> list[Step]:
        steps: list[Step] = []
        under_way = [m for m in self._models.values() if m.phase is ModelPhase.LOADING]
        about = [m.ref for m in under_way if not m.stale]
        free = LOADS - len(under_way)
        ahead = all(m.waits for m in under_way)  # may one begin for which nobody waits?
        room, coming = self.budget - self.held, self._room.coming
        starving = False
        for m in self._candidates(now):
            if not self.budget or max(1, m.size) <= room:
                if starving and not (m.waits or m.pinned):
                    continue
                about.append(m.ref)
                room -= m.size
                if free and (m.waits or ahead):
                    free -= 1
                    ahead = ahead and m.waits > 0
                    m.phase, m.claims = ModelPhase.LOADING, False
                    steps.append(Load(m.ref))
                continue
            out = self._victims(m, max(1, m.size) - room - coming, now)
            if out is None:
                starving = starving or m.waits > 0
                if m.pinned:
                    room = max(0, room - m.size)  # kept for it
                continue
            steps += [self._close(victim, "room") for victim in out]
            coming += sum(victim.size for victim in out) - (m.size - room)
            room = 0  # what is free, and what comes free for it, is taken
            m.claims = True
            about.append(m.ref)
        self._about = tuple(about)
        return steps

    def _candidates(self, now: float) -> list[ModelState]:
        """All that might be loaded, by urgency."""
        out = [
            m for m in self._order
            if m.phase is ModelPhase.OUT and m.retry_at <= now and not self._room.unfit(m)
        ]  # fmt: skip
        return sorted(
            out,
            key=lambda m: (
                not m.pinned,
                not m.waits,
                m.asked_at if m.waits else 0.0,
                not m.claims,
            ),
        )

    def _victims(self, m: ModelState, short: int, now: float) -> list[ModelState] | None:
        """Who goes for `m`, least recently used first; None where that isn't enough."""
        urgent = m.waits > 0 or m.pinned
        if not (urgent or m.canary):
            return None
        if short <= 0:
            return []
        idle = [v for v in self._room.idle() if now - v.loaded_at >= self._keep_s]
        if not urgent:
            idle = [v for v in idle if now - v.used_at >= self._idle_s and not v.canary]
        return enough(sorted(idle, key=lambda v: v.used_at), short)

    def _close(self, m: ModelState, why: str) -> Close:
        m.phase = ModelPhase.CLOSING
        return Close(m.ref, why)

    @staticmethod
    def _serve(m: ModelState) -> int:
        """Whoever waits for it has it now; how many."""
        served, m.waits = m.waits, 0
        m.holds += served
        return served

    def _forget(self) -> None:
        for m in [m for m in self._models.values() if m.wish is None]:
            if m.phase is ModelPhase.OUT and not m.holds:
                del self._models[m.ref]
