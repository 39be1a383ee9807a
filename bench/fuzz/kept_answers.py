"""Finished answers as the store has them, written by a worker of whatever node."""

from __future__ import annotations

import zlib
from random import Random

from actors.contracts import Finish, Usage
from actors.core.journal import Journal
from actors.core.kept_answer import AnswerDamaged, KeptAnswer, pack, refill, unpack
from bench.fuzz.mutation import bytes_changed, packed_changed
from bench.fuzz.target import Target

UNFOLDS = 1032  # times its bytes: the most that deflate does
GROWTH = UNFOLDS * 6  # unfolded, copied by the decoder, and a text of four bytes a character
SLACK = 65_536


def read(data: bytes) -> object:
    kept = unpack(data)
    if len(kept.cuts) < 4096:  # of more pieces the journal is bounded by whoever has it
        refill(Journal(), kept)
    return kept


def changed(data: bytes, random: Random) -> bytes:
    """What is in it, folded anew, or the bytes."""
    if random.random() < 0.3:
        return bytes_changed(data, random)
    try:
        plain = zlib.decompress(data[1:])
    except zlib.error:
        return bytes_changed(data, random)
    return data[:1] + zlib.compress(packed_changed(plain, random), 1)


def _seed(pieces: list[tuple[tuple[int, ...], str]]) -> bytes:
    journal = Journal()
    for token_ids, text in pieces:
        journal.add(token_ids, text)
    journal.close(Finish.STOP, Usage(prompt_tokens=3, completion_tokens=journal.tokens), "m@1")
    return pack(journal)


TARGET = Target(
    name="kept answers",
    read=read,
    seeds=(
        _seed([((1,), "one "), ((2, 70_000), "two \U0001f600"), ((), "!")]),
        _seed([((), "AACAPwAAAEA=")]),
        _seed([]),
    ),
    growth=GROWTH,
    slack=SLACK,
    ours=(AnswerDamaged,),
    classes=(KeptAnswer,),
    change=changed,
)
