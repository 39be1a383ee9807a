"""Incremental detokenizing: from token ids to text, without ever taking back a character.

A token is some bytes; a character may need several tokens, and so may a stop string. What
cannot be decided yet is held back. The state after n tokens is a function of those n ids, so
another worker rebuilds it by replaying them.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Sequence
from typing import Any

from actors.errors import ModelUnusable


class StopScanner:
    """Cuts a text before the first stop string, and holds back what may begin one."""

    __slots__ = ("_held", "_longest", "_stops")

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._longest = max(map(len, self._stops), default=0)
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """What may be said now that `text` came, and whether a stop string was met."""
        if not self._stops:
            return text, False
        text = self._held + text
        found = [at for at in (text.find(stop) for stop in self._stops) if at >= 0]
        if found:
            self._held = ""
            return text[: min(found)], True
        hold = 0
        for size in range(min(len(text), self._longest - 1), 0, -1):
            tail = text[-size:]
            if any(stop.startswith(tail) for stop in self._stops):
                hold = size
                break
        cut = len(text) - hold
        self._held = text[cut:]
        return text[:cut], False

    def flush(self) -> str:
        """What was held back; nothing more will come."""
        held, self._held = self._held, ""
        return held


class TextState:
    """The text of one answer, growing by tokens."""

    __slots__ = ("_decoder", "_stops", "_table")

    def __init__(self, table: Sequence[bytes], stops: Sequence[str] = ()) -> None:
        self._table = table
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._stops = StopScanner(stops)

    def push(self, token_id: int) -> tuple[str, bool]:
        """The characters that `token_id` settled, and whether a stop string was met."""
        return self._stops.push(self._decoder.decode(self._table[token_id]))

    def flush(self) -> str:
        """All that was held back: half a character as U+FFFD, half a stop string as it is."""
        text, stopped = self._stops.push(self._decoder.decode(b"", True))
        return text if stopped else text + self._stops.flush()


def byte_table(tokenizer_json: str, size: int) -> tuple[bytes, ...]:
    """The bytes of every token id below `size`; special tokens have none.

    `tokenizer_json` is the file of the tokenizers library. Its byte-level tokenizers (GPT-2,
    Llama 3, Qwen, SmolLM) and those with byte fallback (Llama 2, Gemma) are understood. Of the
    latter the space before the first word is kept, as an answer that goes on a text needs.

    Raises:
        ModelUnusable: the tokenizer decodes in another way.
    """
    parsed: dict[str, Any] = json.loads(tokenizer_json)
    vocab: dict[str, int] = parsed["model"].get("vocab") or {}
    kinds = set(_decoder_kinds(parsed.get("decoder") or {}))
    if not isinstance(vocab, dict) or not kinds & {"ByteLevel", "ByteFallback"}:
        raise ModelUnusable(
            f"the tokenizer decodes by {', '.join(sorted(kinds)) or 'nothing'}; "
            "only byte-level tokenizers and those with byte fallback are supported"
        )
    table = [b""] * size
    level = _byte_level_alphabet() if "ByteLevel" in kinds else None
    for token, at in vocab.items():
        if at < size:
            table[at] = _level_bytes(token, level) if level else _fallback_bytes(token)
    for added in parsed.get("added_tokens") or ():
        if added["id"] < size:
            table[added["id"]] = b"" if added["special"] else added["content"].encode()
    return tuple(table)


def _decoder_kinds(decoder: dict[str, Any]) -> Iterable[str]:
    if decoder.get("type") == "Sequence":
        for part in decoder["decoders"]:
            yield from _decoder_kinds(part)
    elif "type" in decoder:
        yield decoder["type"]


def _byte_level_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-ins for the 256 bytes (`bytes_to_unicode` of its encoder.py)."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = {chr(byte): byte for byte in plain}
    others = [byte for byte in range(256) if byte not in set(plain)]
    alphabet.update({chr(0x100 + at): byte for at, byte in enumerate(others)})
    return alphabet


def _level_bytes(token: str, alphabet: dict[str, int]) -> bytes:
    try:
        return bytes([alphabet[char] for char in token])
    except KeyError:  # a token outside the alphabet stands for itself
        return token.encode()


def _fallback_bytes(token: str) -> bytes:
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        try:
            return bytes([int(token[3:5], 16)])
        except ValueError:
            pass
    return token.replace("\u2581", " ").encode()
