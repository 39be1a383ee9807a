"""Chunks of an answer, put together within a window."""

from __future__ import annotations

from actors.worker.coalescer import Coalescer


def test_the_first_chunk_leaves_at_once_and_later_ones_within_the_window() -> None:
    coalescer = Coalescer(window_s=0.02, max_characters=100)
    assert coalescer.due(1, 5.0)
    coalescer.left(5.0)
    assert not coalescer.due(1, 5.01)
    assert coalescer.due(100, 5.01)
    assert coalescer.due(1, 5.021)
