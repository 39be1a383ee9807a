"""`tether models register`, `show`, `promote`, `rollback`, `retire`: the registry of the running
node, asked. A change is written to the node's audit log, and asked again while the registry is
away: it says what is to be, so it is made once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from actors.artifacts import digest as digests
from actors.artifacts import names
from actors.artifacts.replicas import Replicas
from actors.contracts import (
    ModelCard,
    ModelChange,
    ModelPolicy,
    ModelsShown,
    MoveModel,
    RegisterModel,
    ShowModels,
    Stage,
)
from actors.contracts.catalog import Move
from actors.core.intention import meant
from actors.core.version import DESCRIBED
from supervision.contracts import Contract
from supervision.telemetry.audit import Who
from tether.admin.grid import Cell, Grid
from tether.cli.description import Description
from tether.cli.failure import CommandFailed
from tether.cli.node import ask, audited
from tether.config import Config

REGISTRY: Final = "control/registry"
PATIENCE_S: Final = 30.0  # with a change: the registry may be restarting
SHOW_S: Final = 5.0
VOUCH_S: Final = 60.0  # the registry asks the replicas
_COLOURS: Final = {Stage.STABLE: "green", Stage.CANARY: "yellow", Stage.RETIRED: "dim"}


def register(config: Config, card: ModelCard) -> int:
    """Have the registry take a version."""
    said = {name: getattr(card, name) for name in DESCRIBED}
    said["policy"] = msgspec.json.encode(_as_dict(card.policy)).decode()
    words = [f"{name}={value}" for name, value in said.items() if value]
    seen = shown_by(config, card.name).revision
    order = RegisterModel(card=card, by=_by(), revision=seen)
    shown = _change(config, "register", [card.ref, *words], order)
    for made in shown.models:
        already = "" if shown.history else " already"
        print(f"{made.ref} is {standing(made, shown)}{already}")
    return 0


def register_pushed(config: Config, ref: str, of: Description) -> int:
    """As `register`, what the replicas have under this name.

    Raises:
        CommandFailed: there are no replicas.
        ModelNotFound: they don't know it.
    """
    if not config.artifacts.replicas:
        raise CommandFailed(
            "say --source, or list the replicas that have it in [artifacts] replicas", code=2
        )
    replicas = Replicas.of(config.artifacts)
    digest = asyncio.run(names.resolve(replicas, ref))
    return register(config, of.card(ref, f"{digests.SOURCE}{digests.address(digest)}"))


def show(config: Config, ref: str, *, history: bool, as_json: bool) -> int:
    """Print versions, or the history of versions.

    Raises:
        CommandFailed: there are none of that name.
    """
    shown = shown_by(config, ref, history=history)
    if ref and not shown.models:
        raise CommandFailed(f"the registry has no {ref}; `tether models show` lists what it has")
    if as_json:
        lines = shown.history if history else [entry(card, shown) for card in shown.models]
        for line in lines:
            print(msgspec.json.encode(_as_dict(line)).decode())
    else:
        (_history(shown.history) if history else _table(shown)).show()
    return 0


def promote(config: Config, ref: str, to: str) -> int:
    """The next stage, or the one that is named."""
    shown = shown_by(config, ref)
    if not to:
        _only(shown, ref)
    move = meant(shown, ref, Move.PROMOTE, to=to, by=_by())
    return _moved(config, move, [ref, "--to", move.to])


def rollback(config: Config, ref: str) -> int:
    """Take back the canary of a name, or else its current version, or the version that is named."""
    move = meant(shown_by(config, ref), ref, Move.ROLLBACK, by=_by())
    return _moved(config, move, [move.ref])


def retire(config: Config, ref: str, *, force: bool) -> int:
    """Offer a version no more."""
    move = meant(shown_by(config, ref), ref, Move.RETIRE, force=force, by=_by())
    return _moved(config, move, [ref, *(["--force"] if force else [])])


def shown_by(
    config: Config, ref: str = "", *, history: bool = False, patience_s: float = SHOW_S
) -> ModelsShown:
    """What the registry of the running node has.

    Raises:
        CommandFailed: no node runs, or its registry doesn't answer.
    """
    question = ShowModels(ref=ref, history=history)
    return _asked(config, question, "show its models", patience_s=patience_s)


def entry(card: ModelCard, shown: ModelsShown) -> dict[str, Any]:
    """A version for JSON."""
    return {
        "ref": card.ref,
        **_as_dict(card),
        "policy": _as_dict(card.policy),
        "current": card.ref in shown.current,
        "listed": card.ref not in shown.unlisted,
    }


def standing(card: ModelCard, shown: ModelsShown) -> str:
    """Where a version stands, in words."""
    words = [str(card.stage)]
    if card.ref in shown.current:
        words.append("current")
    if card.ref in shown.unlisted:
        words.append("not in the configuration")
    return ", ".join(words)


# ---- what they share


def _change(config: Config, verb: str, words: Sequence[str], contract: Contract) -> ModelsShown:
    def work() -> ModelsShown:
        return _asked(config, contract, f"{verb} it", timeout_s=VOUCH_S)

    return audited(config, f"models {verb}", words, work)


def _asked(
    config: Config,
    contract: Contract,
    what: str,
    *,
    timeout_s: float = 10.0,
    patience_s: float = PATIENCE_S,
) -> ModelsShown:
    if not config.has_role("control"):
        raise CommandFailed(
            f"node {config.node.id} has not the role control, and no registry; run this at a "
            "control node"
        )
    return ask(
        config,
        contract,
        ModelsShown,
        path=REGISTRY,
        what=what,
        timeout_s=timeout_s,
        patience_s=patience_s,
    )


def _moved(config: Config, move: MoveModel, words: Sequence[str]) -> int:
    shown = _change(config, move.verb, words, move)
    for card in shown.models:
        already = "" if shown.history else " already"
        print(f"{card.ref} is {standing(card, shown)}{already}")
    for ref in shown.current:
        if ref not in {card.ref for card in shown.models}:
            print(f"{ref} is current")
    return 0


def _only(shown: ModelsShown, ref: str) -> ModelCard:
    card = next((card for card in shown.models if card.ref == ref), None)
    if card is None:
        versions = ", ".join(card.ref for card in shown.models)
        raise CommandFailed(
            f"the registry has no version {ref}; it has {versions}"
            if versions
            else f"the registry has no {ref}; `tether models show` lists what it has"
        )
    return card


def _by() -> str:
    who = Who.here()
    return who.user or f"uid {who.uid}"


def _as_dict(value: msgspec.Struct | dict[str, Any]) -> dict[str, Any]:
    return value if isinstance(value, dict) else msgspec.structs.asdict(value)


def _said(value: object) -> str:
    """One field of a policy, as a cell has it."""
    if isinstance(value, msgspec.Struct):
        return ",".join(f"{name}:{inner:g}" for name, inner in _as_dict(value).items())
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _table(shown: ModelsShown) -> Grid:
    rows: list[tuple[Cell, ...]] = [
        ("model", "stage", "since", "engine", "source", "context", "dtype", "needs", "policy")
    ]
    for card in shown.models:
        needs = [card.gpu_class, f"{card.memory_mib} MiB" if card.memory_mib else ""]
        policy = (
            f"{name}={_said(value)}"
            for name, value in _as_dict(card.policy).items()
            if value != getattr(ModelPolicy(), name)
        )
        rows.append(
            (
                card.ref,
                (standing(card, shown), _COLOURS.get(card.stage, "")),
                _moment(card.stage_s),
                card.engine,
                f"{card.source} + {card.adapter}" if card.adapter else card.source,
                str(card.context),
                card.dtype,
                " ".join(filter(None, needs)),
                " ".join(policy),
            )
        )
    return Grid(rows, headed=True, whole=(0, 4))


def _history(lines: Iterable[ModelChange]) -> Grid:
    rows: list[tuple[Cell, ...]] = [("when", "model", "what", "before", "after", "by", "note")]
    for line in lines:
        words = (line.ref, line.what, line.before, line.after, line.by, line.note)
        rows.append((_moment(line.at_s), *words))
    return Grid(rows, headed=True, whole=(1,))


def _moment(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}"
