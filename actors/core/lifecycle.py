"""The life of a version: registered, canary, stable, retired. Which moves are allowed, and what
each of them does to the other versions of the name. Pure; the store makes the steps last.

Of a name there is at most one canary. Each step to stable is later than all before it, also by a
clock that goes backwards, so the current version (`actors.core.catalog.current`) is the one that
was made stable last, and taking that back makes the one before current again.

Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Final

import msgspec

from actors.contracts import ModelCard, ModelChange, MoveModel, Stage
from actors.contracts.catalog import Change, Move
from actors.core.catalog import current
from actors.core.version import Origin, Version, VersionStep, described, differences
from actors.errors import ModelConflict, ModelNotFound
from supervision.errors import BadRequest, Overloaded

MAX_LIVE: Final = 2000  # versions that aren't retired: they are told to every gateway at once,
MAX_LIVE_BYTES: Final = 4 << 20  # which a frame has to hold
STEP_S: Final = 0.001  # between two moments that must differ; PostgreSQL keeps microseconds
_DONE: Final = {  # what brought a version to a stage
    Stage.REGISTERED: Change.ROLLED_BACK,
    Stage.CANARY: Change.PROMOTED,
    Stage.STABLE: Change.PROMOTED,
    Stage.RETIRED: Change.RETIRED,
}
CONFIGURATION: Final = "the configuration"  # who has done it, in the history
_replace = msgspec.structs.replace


class VersionSet:
    """The versions that are decided about.

    Args:
        versions: all of the names concerned that aren't retired, and those that are named.
        listed: the refs that the present configuration lists.
    """

    def __init__(self, versions: Iterable[Version], listed: Collection[str] = ()) -> None:
        self.versions = {version.card.ref: version for version in versions}
        self._listed = listed

    def is_listed(self, version: Version) -> bool:
        """Is it of an operator, or of the present configuration?"""
        return version.origin is Origin.OPERATOR or version.card.ref in self._listed

    @property
    def cards(self) -> tuple[ModelCard, ...]:
        """What is listed, whatever its stage."""
        return tuple(v.card for v in self.versions.values() if self.is_listed(v))

    @property
    def offered(self) -> tuple[ModelCard, ...]:
        """What may be asked for."""
        return tuple(card for card in self.cards if card.stage.offered)

    @property
    def unlisted(self) -> tuple[str, ...]:
        """What an earlier configuration has left."""
        return tuple(ref for ref, v in self.versions.items() if not self.is_listed(v))

    def after(self, steps: Iterable[VersionStep]) -> VersionSet:
        """As it is once these were made."""
        changed = {step.version.card.ref: step.version for step in steps}
        return VersionSet({**self.versions, **changed}.values(), self._listed)

    # ---- entering

    def enter(self, configured: Sequence[ModelCard], now: float) -> list[VersionStep]:
        """What the configuration lists: new versions are stable, in its order, so that the last one
        is current; known ones stay in their stage. One that an operator has registered becomes the
        configuration's."""
        steps: list[VersionStep] = []
        at = self._moment(now)
        for card in configured:
            known = self.versions.get(card.ref)
            if known is None:
                at += STEP_S
                fresh = _replace(
                    card, stage=Stage.STABLE, stage_s=at, created_s=card.created_s or int(now)
                )
                brought = Version(fresh, Origin.CONFIG)
                steps.append(VersionStep.of(brought, Change.REGISTERED, "", at, by=CONFIGURATION))
                continue
            differs = differences(known.card, card)
            if differs or known.origin is not Origin.CONFIG:
                same = Version(described(known.card, card), Origin.CONFIG)
                note = differs or "listed in the configuration"
                stage = same.card.stage
                steps.append(
                    VersionStep.of(same, Change.CHANGED, stage, now, by=CONFIGURATION, note=note)
                )
        return steps

    def register(
        self, card: ModelCard, by: str, now: float, since: Sequence[ModelChange] = ()
    ) -> list[VersionStep]:
        """A version that an operator brings; one that is there may be given another policy only.
        `since` as in `move`.

        Raises:
            ModelConflict: it is another one of this name and version, or the configuration's, or
                the name was changed since.
            Overloaded: there are too many.
        """
        steps = _as_seen(self._registered(card, by, now), since)
        if steps:
            versions = self.after(steps).versions.values()
            live = [v.card for v in versions if v.card.stage is not Stage.RETIRED]
            size = sum(len(msgspec.msgpack.encode(card)) for card in live)
            if len(live) > MAX_LIVE or size > MAX_LIVE_BYTES:
                raise Overloaded(
                    f"there may be {MAX_LIVE} versions at once, of {MAX_LIVE_BYTES} bytes in all; "
                    "retire some"
                )
        return steps

    def _registered(self, card: ModelCard, by: str, now: float) -> list[VersionStep]:
        known = self.versions.get(card.ref)
        if known is None:
            at = self._moment(now)
            fresh = _replace(card, stage=Stage.REGISTERED, stage_s=at, created_s=int(now))
            return [
                VersionStep.of(Version(fresh, Origin.OPERATOR), Change.REGISTERED, "", at, by=by)
            ]
        if differs := differences(known.card, _replace(card, policy=known.card.policy)):
            raise ModelConflict(
                f"{card.ref} is registered already, and is another one ({differs}); a version is "
                "never changed, take another",
                param="version",
            )
        if card.ref in self._listed and card.policy != known.card.policy:
            raise ModelConflict(
                f"the policy of {card.ref} is the configuration's; change it there", param="policy"
            )
        stage = known.card.stage
        if stage is Stage.RETIRED or not self.is_listed(known):
            origin = Origin.CONFIG if card.ref in self._listed else Origin.OPERATOR
            at = self._moment(now)
            again = _replace(described(known.card, card), stage=Stage.REGISTERED, stage_s=at)
            return [VersionStep.of(Version(again, origin), Change.REGISTERED, stage, at, by=by)]
        if differs := differences(known.card, card):
            same = Version(described(known.card, card), known.origin)
            return [VersionStep.of(same, Change.CHANGED, stage, now, by=by, note=differs)]
        return []

    # ---- moving

    def move(
        self, msg: MoveModel, by: str, now: float, since: Sequence[ModelChange] = ()
    ) -> list[VersionStep]:
        """The steps of a move; none if everything is as it is to be. `since` are the changes of
        the name that came after the revision which the asker has seen.

        Raises:
            ModelNotFound: there is no such version, or no such name to take back.
            BadRequest: such a move there isn't.
            ModelConflict: its stage doesn't allow it, or the name was changed since.
        """
        match msg.verb:
            case Move.PROMOTE:
                steps = self._promoted(self._found(msg.ref), msg.to, by, now)
            case Move.ROLLBACK:
                steps = self._rolled_back(msg.ref, by, now)
            case Move.RETIRE:
                found = self._found(msg.ref, unlisted=True)
                steps = self._retired(found, by, now, force=msg.force)
            case _:
                raise BadRequest(
                    f"there is no move {msg.verb!r}; it is promote, rollback or retire",
                    param="verb",
                )
        return _as_seen(steps, since)

    def _found(self, ref: str, *, unlisted: bool = False) -> Version:
        known = self.versions.get(ref)
        if known is None:
            raise ModelNotFound(
                f"the registry has no version {ref[:200]!r}; write NAME@VERSION, `tether models "
                "show` lists them",
                param="ref",
            )
        if not unlisted and not self.is_listed(known):
            raise ModelConflict(
                f"{ref} is of an earlier configuration; list it again, or register it", param="ref"
            )
        return known

    def _promoted(self, version: Version, to: str, by: str, now: float) -> list[VersionStep]:
        card = version.card
        if to not in ("", Stage.CANARY, Stage.STABLE):
            raise BadRequest(
                f"a version is promoted to canary or stable, not to {to[:64]!r}", param="to"
            )
        if card.stage is Stage.RETIRED:
            raise ModelConflict(f"{card.ref} is retired; register it again first", param="ref")
        if not to:
            to = Stage.CANARY if card.stage is Stage.REGISTERED else Stage.STABLE
        is_current = current(self.cards).get(card.name) == card
        if card.stage == to and (to == Stage.CANARY or is_current):
            return []
        if to == Stage.STABLE:
            return [self._to(version, Stage.STABLE, by=by, now=now)]
        if card.stage is Stage.STABLE:
            raise ModelConflict(f"{card.ref} is stable; roll it back before it is tried again")
        steps = []
        for other in self._named(card.name):
            if other.card.stage is Stage.CANARY:
                if self.is_listed(other):
                    raise ModelConflict(
                        f"{other.card.ref} is the canary of {card.name}; promote it, or roll it "
                        "back, first"
                    )
                note = "it is of an earlier configuration"
                steps.append(self._to(other, Stage.REGISTERED, by=by, now=now, note=note))
        return [*steps, self._to(version, Stage.CANARY, by=by, now=now)]

    def _rolled_back(self, ref: str, by: str, now: float) -> list[VersionStep]:
        name, at, _ = ref.partition("@")
        if at:
            version = self._found(ref)
        else:
            canary = [c for c in self.cards if c.name == name and c.stage is Stage.CANARY]
            card = canary[0] if canary else current(self.cards).get(name)
            if card is None:
                raise ModelNotFound(
                    f"there is neither a canary nor a stable version of {name[:200]!r}", param="ref"
                )
            version = self.versions[card.ref]
        card = version.card
        if card.stage is Stage.REGISTERED:
            return []
        if card.stage is Stage.RETIRED:
            raise ModelConflict(
                f"{card.ref} is retired; there is nothing to take back", param="ref"
            )
        if card.stage is Stage.STABLE and not self._others_stable(card):
            raise ModelConflict(
                f"{card.ref} is the only stable version of {card.name}, so none would be current; "
                "promote another first"
            )
        return [self._to(version, Stage.REGISTERED, by=by, now=now)]

    def _retired(self, version: Version, by: str, now: float, *, force: bool) -> list[VersionStep]:
        card = version.card
        if card.stage is Stage.RETIRED:
            return []
        is_needed = card.stage is Stage.STABLE and self.is_listed(version)
        if is_needed and not force and not self._others_stable(card):
            raise ModelConflict(
                f"{card.ref} is the only stable version of {card.name}, which nobody could ask for "
                "any more; promote another first, or force it"
            )
        return [self._to(version, Stage.RETIRED, by=by, now=now)]

    def _others_stable(self, card: ModelCard) -> bool:
        return any(
            c.stage is Stage.STABLE and c.name == card.name and c.ref != card.ref
            for c in self.cards
        )

    def _named(self, name: str) -> list[Version]:
        return [v for v in self.versions.values() if v.card.name == name]

    def _to(
        self, version: Version, stage: Stage, *, by: str, now: float, note: str = ""
    ) -> VersionStep:
        at = self._moment(now)
        moved = _replace(version.card, stage=stage, stage_s=at)
        before = version.card.stage
        return VersionStep.of(
            version._replace(card=moved), _DONE[stage], before, at, by=by, note=note
        )

    def _moment(self, now: float) -> float:
        """Now, but later than all that has happened to these."""
        last = max((v.card.stage_s for v in self.versions.values()), default=0.0)
        return max(now, last + STEP_S)


def _as_seen(steps: list[VersionStep], since: Sequence[ModelChange]) -> list[VersionStep]:
    """The steps, if there are none, or nothing has changed since they were asked for."""
    if steps and since:
        last = since[-1]
        raise ModelConflict(
            f"{last.ref.partition('@')[0]} was changed meanwhile: {last.by or 'somebody'} has "
            f"{last.what} {last.ref}, which is {last.after} now; look again, and decide anew"
        )
    return steps
