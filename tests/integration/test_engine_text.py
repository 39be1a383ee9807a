"""Ids to text as the tokenizer of a real folder decodes them."""

from __future__ import annotations

from pathlib import Path

from actors.engines.text import TextState, byte_table
from tests.support import tiny


def test_the_table_decodes_like_the_tokenizer(tmp_path: Path) -> None:
    import random

    from transformers import AutoTokenizer

    folder = tiny.make(tmp_path / "tiny")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    size = len(tokenizer) + 3
    table = byte_table((folder / "tokenizer.json").read_text(), size)
    assert len(table) == size
    rng = random.Random(5)
    for _ in range(300):
        ids = [rng.randrange(len(tokenizer)) for _ in range(rng.randrange(1, 60))]
        state = TextState(table)
        text = "".join(state.push(token)[0] for token in ids) + state.flush()
        assert text == tokenizer.decode(ids, skip_special_tokens=True)
