"""The size of a model before it is loaded: that of its files."""

from __future__ import annotations

from pathlib import Path

from actors.contracts import ModelCard


def estimate(card: ModelCard) -> int:
    """Bytes of the files of its source and adapter, as far as they are on this machine already;
    else 0."""
    return sum(_bytes(source) for source in (card.source, card.adapter))


def _bytes(source: str) -> int:
    if not source or source.startswith(("artifact:", "package:")):
        return 0
    path = Path(source).expanduser()
    try:
        if path.is_file():
            return path.stat().st_size
        return sum(entry.stat().st_size for entry in path.iterdir() if entry.is_file())
    except OSError:
        return 0  # its load will say what is wrong
