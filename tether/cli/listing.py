"""`tether models ls`: what the replicas have, what of it is here, and how it stands."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from actors.artifacts import digest as digests
from actors.artifacts import names, source
from actors.artifacts.replicas import Replicas
from actors.contracts import ModelCard, ModelsShown, Stage
from supervision.errors import TetherError
from supervision.settings import ConfigInvalid
from tether.admin.grid import Cell, Grid
from tether.cli import registry
from tether.cli.artifacts import configured, report
from tether.cli.failure import CommandFailed
from tether.config import Config, load


class Line(NamedTuple):
    """A name at the replicas, with the versions that are made of it; or one of those alone, unless
    it is retired."""

    name: str
    address: str
    said: dict[str, str]  # by replica
    here: str
    cards: list[ModelCard]


def list_(path: Path, node: str, *, as_json: bool) -> int:
    """Print all of it. Without a running node, or without replicas, there is the other half."""
    config = configured(path)
    shown = _registered(path, node)
    replicas = None
    if config.artifacts.replicas or shown is None:
        replicas = Replicas.of(config.artifacts)
    lines = list(_named(config, replicas, shown)) if replicas is not None else []
    if shown is not None:
        seen = {card.ref for line in lines for card in line.cards}
        others = (c for c in shown.models if c.ref not in seen and c.stage is not Stage.RETIRED)
        lines += [Line(card.ref, card.source, {}, "", [card]) for card in others]
    if as_json:
        for line in lines:
            print(msgspec.json.encode(_as_dict(line, shown)).decode())
    else:
        _table(lines, replicas, shown).show()
    if replicas is not None:
        report(replicas)
    return 0


def _registered(path: Path, node: str) -> ModelsShown | None:
    """What the registry has; None if it can't be asked, such as without a node."""
    try:
        return registry.shown_by(load(path, node), patience_s=0.0)
    except (CommandFailed, ConfigInvalid, TetherError):
        return None


def _named(config: Config, replicas: Replicas, shown: ModelsShown | None) -> Iterator[Line]:
    cache = source.cache_of(config.cache_dir, config.artifacts)
    here = {entry.digest for entry in cache.entries()}
    for named in asyncio.run(names.listed(replicas)):
        address = named.addresses[0]
        digest = digests.parse(address)
        state = "pinned" if cache.is_pinned(digest) else "yes" if digest in here else ""
        made_of = digests.SOURCE + address
        cards = [c for c in (shown.models if shown else ()) if made_of in (c.source, c.adapter)]
        yield Line(named.ref, address, named.said, state, cards)


def _as_dict(line: Line, shown: ModelsShown | None) -> dict[str, Any]:
    versions = None
    if shown is not None:
        versions = [
            {"ref": c.ref, "stage": c.stage, "current": c.ref in shown.current} for c in line.cards
        ]
    return {
        "name": line.name,
        "address": line.address,
        "replicas": line.said,
        "here": line.here,
        "versions": versions,
    }


def _table(lines: list[Line], replicas: Replicas | None, shown: ModelsShown | None) -> Grid:
    rows: list[tuple[Cell, ...]] = [("name", "address", "replicas", "here", "stage")]
    for line in lines:
        agreed = sum(said == line.address for said in line.said.values())
        stages = []
        for card in line.cards if shown else ():
            assert shown is not None
            stage = registry.standing(card, shown)
            stages.append(stage if card.ref == line.name else f"{card.ref} {stage}")
        rows.append(
            (
                line.name,
                line.address,
                f"{agreed} of {len(replicas.all)}" if replicas and line.said else "",
                line.here,
                "; ".join(stages),
            )
        )
    return Grid(rows, headed=True, whole=(0, 1))
