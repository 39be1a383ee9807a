"""The finished answer of a request with an idempotency key, as bytes that the store keeps.

One byte says how the rest is written, so that a later release may write otherwise; then zlib (whose
Adler-32 finds bytes that were changed on a disk) over MessagePack. The pieces of the answer are
kept as they came, so that a stream may be taken up again at any token at which it could be when the
answer was said.

What is kept was written by a worker, perhaps of another node, and lay on a disk: whoever reads it
believes none of it. It unfolds to at most `MOST_UNFOLDED` bytes, and raises one error. Pure.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from itertools import accumulate
from struct import Struct, unpack_from
from struct import error as struct_error
from struct import pack as struct_pack
from typing import Final

import msgspec

from actors.contracts import Finish, Usage
from actors.core.journal import Journal
from actors.errors import WorkerLost
from supervision.errors import TetherError
from supervision.unreadable import UNREADABLE

MOST_UNFOLDED: Final = 8 << 20  # bytes of an answer before it is compressed
_FORMAT: Final = b"\x01"
_LEVEL: Final = 1  # text of answers is then a third; 6 takes three times as long for a tenth less
_WINDOW_BITS: Final = 15
_NUMBER: Final = 4  # bytes
_CUT: Final = Struct("<II")


class AnswerDamaged(TetherError):
    """The bytes are no kept answer: changed, cut, or of another release."""

    code = "answer_damaged"


class KeptAnswer(msgspec.Struct, frozen=True, array_like=True):
    """An answer in full. `token_ids`, and of each piece how many of them and how many characters of
    `text` it has (`cuts`), are little-endian numbers of 32 bits: in lists of numbers a small text
    would become a hundred megabytes. What of `text` is left has no token of its own. Later
    releases append fields."""

    token_ids: bytes
    cuts: bytes
    text: str
    finish: Finish
    usage: Usage
    model_ref: str


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(KeptAnswer)


def unfolded_bytes(journal: Journal) -> int:
    """About how many bytes an answer is before it is compressed, without making them."""
    return 4 * journal.characters + _CUT.size * len(journal) + _NUMBER * journal.tokens


def pack(journal: Journal, before: Iterable[tuple[tuple[int, ...], str]] = ()) -> bytes:
    """The answer of a closed journal, and of the pieces that were said `before` it began.

    Raises:
        ValueError: the journal has no end, or something before it that isn't told, or a token
            that can't be written.
    """
    if journal.finish is None:
        raise ValueError("an answer that has no end can't be kept")
    pieces = [*before, *journal.pieces()]
    ids = [token for token_ids, _ in pieces for token in token_ids]
    if len(ids) != journal.tokens:
        raise ValueError(f"{len(ids)} of the {journal.tokens} tokens of an answer were told")
    cuts = [number for token_ids, text in pieces for number in (len(token_ids), len(text))]
    kept = KeptAnswer(
        token_ids=_numbers(ids),
        cuts=_numbers(cuts),
        text="".join(text for _, text in pieces) + journal.held,
        finish=journal.finish,
        usage=journal.usage,
        model_ref=journal.model_ref,
    )
    return _FORMAT + zlib.compress(_encoder.encode(kept), _LEVEL)


def unpack(data: bytes) -> KeptAnswer:
    """What `pack` wrote.

    Raises:
        AnswerDamaged: it isn't that.
    """
    if data[:1] != _FORMAT:
        raise AnswerDamaged("a kept answer begins with no format that this release knows")
    unfolding = zlib.decompressobj(_WINDOW_BITS)
    try:
        plain = unfolding.decompress(memoryview(data)[1:], MOST_UNFOLDED)
    except zlib.error as error:
        raise AnswerDamaged(f"a kept answer can't be unfolded: {error}") from error
    if not unfolding.eof or unfolding.unused_data:
        raise AnswerDamaged(
            f"a kept answer is cut off, has more behind it, or is above {MOST_UNFOLDED} bytes"
        )
    try:
        kept = _decoder.decode(plain)
    except UNREADABLE as error:
        raise AnswerDamaged(f"a kept answer can't be read: {error}") from error
    if not _fits(kept):
        raise AnswerDamaged("the parts of a kept answer don't fit each other")
    if min(msgspec.structs.astuple(kept.usage)) < 0:
        raise AnswerDamaged("the usage of a kept answer is below 0")
    return kept


def _fits(kept: KeptAnswer) -> bool:
    if len(kept.cuts) % _CUT.size:
        return False
    tokens = characters = 0
    for of_piece, length in _CUT.iter_unpack(kept.cuts):
        if not of_piece:
            return False
        tokens, characters = tokens + of_piece, characters + length
    return tokens * _NUMBER == len(kept.token_ids) and characters <= len(kept.text)


def refill(journal: Journal, kept: KeptAnswer, from_seq: int = 0) -> None:
    """Says into `journal`, which may have the beginning of it, all that is kept, and closes it.

    Raises:
        WorkerLost: it can't be read at `from_seq`, or what the journal has doesn't end where one of
            the kept pieces does; it is as it was.
    """
    had = journal.tokens
    if from_seq > had and from_seq not in accumulate(
        tokens for tokens, _ in _CUT.iter_unpack(kept.cuts)
    ):
        raise WorkerLost(f"no piece of the answer begins at token {from_seq}")
    token, character = 0, 0
    for tokens, characters in _CUT.iter_unpack(kept.cuts):
        end = token + tokens
        if end > had:
            ids = unpack_from(f"<{tokens}I", kept.token_ids, token * _NUMBER)
            journal.add(ids, kept.text[character : character + characters], token)
        token, character = end, character + characters
    rest = kept.text[character:]
    if rest:
        journal.add((), rest)
    journal.close(kept.finish, kept.usage, kept.model_ref)


def _numbers(numbers: Sequence[int]) -> bytes:
    try:
        return struct_pack(f"<{len(numbers)}I", *numbers)
    except struct_error as error:
        raise ValueError(f"a token of an answer is no number of 32 bits: {error}") from error
