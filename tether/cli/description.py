"""The description of a model's version, from the arguments of a command."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from actors.contracts import ModelCard, ModelPolicy
from actors.core.policy_options import read_policy
from actors.core.version import check
from supervision.errors import BadRequest
from supervision.settings import ConfigInvalid
from tether.cli.failure import CommandFailed

_LISTS: Final = ("tenants", "regions", "order")  # of a policy


class Description(NamedTuple):
    """What a version is, as the command line says it; see `ModelCard`. `policy` are files of TOML
    and KEY=VALUE (or TABLE.KEY=VALUE), of which later ones count."""

    engine: str
    adapter: str = ""
    context: int = 2048
    dtype: str = "float32"
    gpu_class: str = ""
    memory_mib: int = 0
    policy: Sequence[str] = ()
    special_tokens_in_text: bool = False

    def card(self, ref: str, source: str) -> ModelCard:
        """
        Raises:
            BadRequest: it can't be one.
            CommandFailed: the policy can't be read.
        """
        name, at, version = ref.partition("@")
        if not at:
            raise BadRequest(f"{ref!r} is no NAME@VERSION")
        made = ModelCard(
            name=name,
            version=version,
            engine=self.engine,
            source=_absolute(source),
            adapter=_absolute(self.adapter),
            context=self.context,
            dtype=self.dtype,
            gpu_class=self.gpu_class,
            memory_mib=self.memory_mib,
            policy=policy_of(self.policy),
            special_tokens_in_text=self.special_tokens_in_text,
        )
        check(made)
        return made


def policy_of(said: Iterable[str]) -> ModelPolicy:
    """
    Raises:
        CommandFailed: a file can't be read, or a word is neither.
        BadRequest: the policy can't be one.
    """
    fields: dict[str, Any] = {}
    for word in said:
        key, equals, value = word.partition("=")
        if not equals:
            try:
                fields |= tomllib.loads(Path(word).read_text("utf-8"))
            except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
                raise CommandFailed(
                    f"the policy {word!r} is neither KEY=VALUE nor a file of TOML: {error}", code=2
                ) from None
        elif key in _LISTS:
            fields[key] = [part.strip() for part in value.split(",") if part.strip()]
        else:
            *tables, last = key.split(".")
            into = fields
            for table in tables:
                into = into.setdefault(table, {})
                if not isinstance(into, dict):
                    raise CommandFailed(f"in the policy {word!r}, {table} is no table", code=2)
            into[last] = _value(value)
    try:
        return ModelPolicy(**msgspec.structs.asdict(read_policy(fields)))
    except ConfigInvalid as error:
        first = error.problems[0]
        raise BadRequest(f"policy.{first.path}: {first.sentence}") from None


def _absolute(source: str) -> str:
    if not source or source.startswith(("package:", "artifact:")):
        return source
    if source.startswith("sha256:"):
        return f"artifact:{source}"
    return str(Path(source).expanduser().resolve())


def _value(text: str) -> object:
    """As TOML has it; a bare word is a text."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
