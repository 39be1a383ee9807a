"""An operator's move that leaves something open, completed from what was shown to them. A move that
leaves nothing open may be asked again, after a lost answer: it is made once. Pure."""

from __future__ import annotations

from actors.contracts import ModelsShown, MoveModel, Stage
from actors.contracts.catalog import Move


def meant(
    shown: ModelsShown,
    ref: str,
    verb: Move,
    *,
    to: str = "",
    force: bool = False,
    by: str = "",
) -> MoveModel:
    """Promoted is to the next stage, where `to` doesn't say it; rolled back, by a bare name, is its
    canary, or else its current version. `shown` is of `ref`, or of its name; what it lacks is left
    as it is, for the registry says what is wrong."""
    if verb is Move.PROMOTE and not to:
        card = next((card for card in shown.models if card.ref == ref), None)
        if card is not None:
            to = Stage.CANARY if card.stage is Stage.REGISTERED else Stage.STABLE
    if verb is Move.ROLLBACK and "@" not in ref:
        canaries = [card.ref for card in shown.models if card.stage is Stage.CANARY]
        chosen = [r for r in (*canaries, *shown.current) if r not in shown.unlisted]
        ref = chosen[0] if chosen else ref
    return MoveModel(ref=ref, verb=verb, to=to, force=force, by=by, revision=shown.revision)
