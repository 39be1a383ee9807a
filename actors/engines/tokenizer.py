"""The tokenizer of a Hugging Face folder, with its chat template and its end tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from actors.engines.folder import unloadable
from actors.engines.text import byte_table
from supervision.errors import BadRequest


class Tokenizer:
    """The tokenizer in a checked model folder. Needs transformers; runs no code of the folder."""

    def __init__(self, folder: Path) -> None:
        """
        Raises:
            ModelUnusable: its files are of a kind that the library refuses.
        """
        import transformers

        try:
            self._own: Any = transformers.AutoTokenizer.from_pretrained(
                folder, local_files_only=True
            )
        except Exception as error:  # whatever its files can provoke in the library
            raise unloadable(folder, error) from error

    @property
    def chat(self) -> bool:
        """There is a chat template."""
        return bool(self._own.chat_template)

    def table(self, size: int) -> tuple[bytes, ...]:
        """See `text.byte_table`."""
        return byte_table(self._own.backend_tokenizer.to_str(), size)

    def templated(self, messages: list[dict[str, str]]) -> str:
        """A conversation as one text.

        Raises:
            BadRequest: the template refuses it.
        """
        import jinja2

        try:
            text: str = self._own.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            )
        except jinja2.TemplateError as error:
            raise BadRequest(
                f"the model's chat template refuses these messages: {error}", param="messages"
            ) from None
        return text

    def encode(self, text: str, *, special: bool) -> tuple[int, ...]:
        """Token ids; `special` adds what the model wants around a text."""
        return tuple(self._own.backend_tokenizer.encode(text, add_special_tokens=special).ids)


def ends(folder: Path, config: dict[str, Any]) -> frozenset[int]:
    """The tokens that end a turn: those of generation_config.json, else of the model's `config`."""
    path = folder / "generation_config.json"
    said = json.loads(path.read_bytes()).get("eos_token_id") if path.is_file() else None
    if said is None:
        said = config.get("eos_token_id")
    return frozenset(() if said is None else [said] if isinstance(said, int) else said)
