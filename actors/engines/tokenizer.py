"""The tokenizer of a Hugging Face folder, with its chat template and its end tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from actors.engines import folder as folders
from actors.engines.folder import unloadable
from actors.engines.plain_text import Added, ControlTokens, steering
from actors.engines.text import byte_table
from actors.errors import ModelUnusable
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

    def encode(self, text: str, *, special: bool, plain: bool = False) -> tuple[int, ...]:
        """See `plain_text.Encode`."""
        return encode(self._own, text, special=special, plain=plain)

    def control(self) -> ControlTokens:
        """What must not come from a client's text."""
        return control_tokens(self._own)


def encode(own: Any, text: str, *, special: bool, plain: bool = False) -> tuple[int, ...]:
    """See `plain_text.Encode`; `own` is a tokenizer of transformers, used by one thread."""
    backend = own.backend_tokenizer
    backend.encode_special_tokens = plain
    try:
        return tuple(backend.encode(text, add_special_tokens=special).ids)
    finally:
        backend.encode_special_tokens = False


def control_tokens(own: Any) -> ControlTokens:
    """What must not come from a client's text; `own` is a tokenizer of transformers."""
    backend = own.backend_tokenizer
    unigram = type(backend.model).__name__ == "Unigram"  # which has it by its number
    unknown = own.unk_token if unigram else getattr(backend.model, "unk_token", None)
    template, words = "", frozenset[str]()
    if own.chat_template:
        from actors.engines.chat_template import looked_for

        template = own.get_chat_template()
        words = looked_for(template)
    added = (
        Added(
            id=id,
            name=token.content,
            special=token.special,
            before=token.lstrip,
            after=token.rstrip,
        )
        for id, token in backend.get_added_tokens_decoder().items()
    )
    return ControlTokens(steering(added, template, words), unknown=unknown, template=template)


def ends(folder: Path, config: dict[str, Any]) -> frozenset[int]:
    """The tokens that end a turn: those of generation_config.json, else of the model's `config`."""
    path = folder / "generation_config.json"
    said = folders.parsed(folder, path.name).get("eos_token_id") if path.is_file() else None
    if said is None:
        said = config.get("eos_token_id")
    ids = [] if said is None else said if isinstance(said, list) else [said]
    if not all(type(one) is int for one in ids):
        raise ModelUnusable(f"{folder} has an eos_token_id that is no token: {str(said)[:80]}")
    return frozenset(ids)
