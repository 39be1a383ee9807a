"""What a card says of a model, as one word. Pure."""

from __future__ import annotations

import hashlib

from actors.contracts import ModelCard


def digest_of(card: ModelCard) -> str:
    """Tells models of the same name apart: SHA-256 over what the card says of the model. A folder's
    path says nothing of its contents and differs between nodes, so it is left out."""
    sources = (
        source if source.startswith(("artifact:", "package:")) else ""
        for source in (card.source, card.adapter)
    )
    said = (card.name, card.version, card.engine, card.context, card.dtype, *sources)
    return hashlib.sha256(repr(said).encode()).hexdigest()
