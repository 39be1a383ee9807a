"""One version of a model as the registry keeps it: who brought it, what was done with it, what may
stand in it. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple

import msgspec

from actors.contracts import ModelCard, ModelChange
from actors.contracts.catalog import Change
from actors.core.model_options import read_model
from supervision.errors import BadRequest
from supervision.settings import ConfigInvalid

#: What a version is, beside its name. What else a card says was given to it here.
DESCRIBED: Final = (
    "engine", "source", "context", "dtype", "adapter", "gpu_class", "memory_mib", "policy",
    "special_tokens_in_text",
)  # fmt: skip
_MAX_NOTE: Final = 500
_MAX_BY: Final = 200


class Origin(StrEnum):
    """Who has brought a version into the catalog."""

    CONFIG = "config"  # the configuration: it is offered while that lists it
    OPERATOR = "operator"  # somebody has registered it


class Version(NamedTuple):
    """A version, and who has brought it: one of the configuration is offered only while the
    configuration lists it."""

    card: ModelCard
    origin: Origin


class VersionStep(NamedTuple):
    """One version as it is from now on, and the line of its history that says so."""

    version: Version
    line: ModelChange

    @classmethod
    def of(
        cls, version: Version, what: Change, before: str, at: float, *, by: str, note: str = ""
    ) -> VersionStep:
        """`version` is as it is afterwards; `at` is Unix time."""
        line = ModelChange(
            ref=version.card.ref,
            what=what,
            before=str(before),
            after=str(version.card.stage),
            at_s=at,
            by=by[:_MAX_BY],
            note=note[:_MAX_NOTE],
        )
        return cls(version, line)


def check(card: ModelCard) -> None:
    """As `[[models]]` of the configuration is checked; a folder must be absolute.

    Raises:
        BadRequest: the first mistake, with the name of its field.
    """
    fields = {name: getattr(card, name) for name in ("name", "version", *DESCRIBED)}
    try:
        read_model({**fields, "policy": msgspec.to_builtins(msgspec.structs.asdict(card.policy))})
    except ConfigInvalid as error:
        first = error.problems[0]
        raise BadRequest(f"{first.path}: {first.sentence}", param=first.path) from None
    for field in ("source", "adapter"):
        source = getattr(card, field)
        if source and not source.startswith(("/", "package:", "artifact:")):
            raise BadRequest(
                f"{field}: {source[:200]!r} is no absolute folder, package:NAME or "
                "artifact:sha256:…",
                param=field,
            )


def described(known: ModelCard, card: ModelCard) -> ModelCard:
    """The version that is known, as `card` describes it."""
    return msgspec.structs.replace(known, **{field: getattr(card, field) for field in DESCRIBED})


def differences(known: ModelCard, card: ModelCard) -> str:
    """What another description says, for the history."""
    told = (
        f"{field} {before} → {after}" if field != "policy" else _policy(before, after)
        for field in DESCRIBED
        if (before := getattr(known, field)) != (after := getattr(card, field))
    )
    return ", ".join(told)


def _policy(before: msgspec.Struct, after: msgspec.Struct) -> str:
    return ", ".join(
        f"policy.{name} {_told(was)} → {_told(now)}"
        for name in before.__struct_fields__
        if (was := getattr(before, name)) != (now := getattr(after, name))
    )


def _told(value: object) -> str:
    if isinstance(value, msgspec.Struct):
        fields = msgspec.structs.asdict(value).items()
        return f"({', '.join(f'{name} {inner:g}' for name, inner in fields)})"
    return "as all" if value is None else str(value)
