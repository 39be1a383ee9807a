"""Options of one model, `[[models]]`, and what is wrong with them by themselves. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Final, Literal

from msgspec import Meta

from actors.contracts.policies import PolicyName
from actors.core import engine_kinds
from actors.core.engine_kinds import EngineKind
from actors.core.policy_options import ModelPolicyOptions, policy_violations
from supervision.settings import ConfigInvalid, Problem, Section, Word, read_section

_ARTIFACT: Final = re.compile(r"artifact:sha256:[0-9a-f]{64}")
_PACKAGE: Final = re.compile(r"package:[A-Za-z0-9][A-Za-z0-9._-]{0,126}")


class ModelOptions(Section, frozen=True, kw_only=True):
    """One model of the catalog. `source` is a folder, `package:NAME` for weights that came
    with a Python package, or `artifact:sha256:…` for a signed one; engine `echo` has none.
    `adapter` is a LoRA adapter over it, found likewise. `context` is in tokens. `gpu_class` and
    `memory_mib` are what it needs of a worker (empty: any; 0: as its files are large). With
    `special_tokens_in_text` whoever may ask it may write its control tokens, and forge turns."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,126}$")]
    version: Word = "1"
    engine: str
    source: str = ""
    context: Annotated[int, Meta(ge=16, le=1 << 24)] = 2048
    dtype: Literal["float32", "bfloat16"] = "float32"
    adapter: str = ""
    gpu_class: Annotated[str, Meta(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,62})?$")] = ""
    memory_mib: Annotated[int, Meta(ge=0, le=1 << 24)] = 0
    policy: ModelPolicyOptions = ModelPolicyOptions()
    special_tokens_in_text: bool = False

    @property
    def ref(self) -> str:
        """The full name, `name@version`."""
        return f"{self.name}@{self.version}"


def model_violations(
    model: ModelOptions, prefix: str, order: Sequence[PolicyName] = ()
) -> Iterator[Problem]:
    """What is wrong with one model by itself; `prefix` stands before the names of its fields, and
    `order` is that of the policies of all models, where it is known."""
    yield from policy_violations(model.policy, f"{prefix}policy.", order)
    kind = engine_kinds.find(model.engine)
    if kind is None:
        known = ", ".join(map(repr, engine_kinds.NAMES))
        yield Problem(f"{prefix}engine", f"{model.engine!r} is not known; it may be {known}")
    else:
        yield from _unsuited(model, kind, prefix)
    for field in ("source", "adapter"):
        source = getattr(model, field)
        if source.startswith("artifact:") and not _ARTIFACT.fullmatch(source):
            yield Problem(
                f"{prefix}{field}", f"{source!r} is no artifact:sha256: and 64 hex digits"
            )
        elif source.startswith("package:") and not _PACKAGE.fullmatch(source):
            yield Problem(f"{prefix}{field}", f"{source!r} is no package: and the name of one")
        elif any(not c.isprintable() for c in source):
            yield Problem(f"{prefix}{field}", f"{source!r} holds what can't be printed")


def _unsuited(model: ModelOptions, kind: EngineKind, prefix: str) -> Iterator[Problem]:
    if model.source and not kind.weights:
        yield Problem(f"{prefix}source", f"the {kind.name} engine has no source; remove it")
    if not model.source and kind.weights:
        yield Problem(
            f"{prefix}source",
            f"engine {kind.name} needs a folder, package:NAME or artifact:sha256:…; add it",
        )
    if model.adapter and not kind.takes_adapters:
        taking = " and ".join(engine_kinds.TAKE_ADAPTERS)
        yield Problem(
            f"{prefix}adapter",
            f"engine {kind.name} takes no adapter, only {taking} do; remove it",
        )


def read_model(raw: object) -> ModelOptions:
    """One model as an entry of `[[models]]` spells it.

    Raises:
        ConfigInvalid: with all mistakes; their paths are the names of its fields.
    """
    problems: list[Problem] = []
    read = read_section(ModelOptions, raw, "", problems, {})
    if read is not None:
        problems += model_violations(read, "")
    if read is None or problems:
        raise ConfigInvalid(tuple(problems))
    return read
