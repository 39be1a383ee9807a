"""What a node's models need before anything of it runs: weights fetched, verified and converted."""

from __future__ import annotations

import os
from pathlib import Path

from actors.depot.peer_sources import PeerSources
from actors.engines.factory import prepare
from supervision.runtime.options import NodeOptions
from tether.config import Config
from tether.node.capabilities import capabilities_of
from tether.node.plan import around, artifacts_of, card_of, possible_models
from tether.node.progress import Progress


def prepare_models(config: Config, run_dir: Path, narrator: Progress) -> None:
    """All that workers of this node may load, one after the other; `narrator` is told how far it
    is. What lies ready already costs nothing.

    Raises:
        TetherError: a model can't be used, with a sentence that says why.
    """
    capabilities = capabilities_of(config, run_dir, owner_pid=os.getpid())
    sources = PeerSources.of(NodeOptions.of(capabilities), around(config))
    for model in possible_models(config):
        what = f"model {model.ref}"

        def progress(stage: str, fraction: float, what: str = what) -> None:
            narrator.working(f"{what}: {stage}", what, fraction)

        card = card_of(config, model)
        if card.artifacts:
            from actors.artifacts.source import localized

            peers = sources.asking if sources else None
            card = localized(card, config.cache_dir, artifacts_of(config), progress, peers)
        if prepare(card, config.cache_dir, progress) is not None:
            narrator.working(what, what, 1.0)
