"""The engines there are: one table. A new engine is a file of `actors/engines` and a row of it.

The row says what others must know without loading the engine: the configuration whether it may be
asked for, a worker whether it could run it. So nothing is imported here, and a row names its file;
`actors.engines.factory` loads that when a model needs it. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from actors.contracts.catalog import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineKind:
    """One engine. `name` is how the configuration calls it.

    `module` is its file in `actors/engines`, which has `prepare` and `create`; see
    `factory.EngineModule`. To run it `needs` this package beside ours; one with a `home` runs in an
    environment of its own, which the module of that name finds; see `factory.EngineHome`.
    Without `weights` it has no source, and no need of a process of its own.
    """

    name: str
    module: str
    needs: str = ""
    home: str = ""
    weights: bool = True
    takes_adapters: bool = False
    task: Task = Task.GENERATE


KINDS: Final = (
    EngineKind(name="gguf", module="gguf", needs="xllamacpp", takes_adapters=True),
    EngineKind(name="transformers", module="transformer", needs="torch", takes_adapters=True),
    EngineKind(name="vllm", module="vllm", home="vllm_home", takes_adapters=True),
    EngineKind(name="embedding", module="embedding", needs="torch", task=Task.EMBED),
    EngineKind(name="echo", module="echo", weights=False),
)
NAMES: Final = tuple(kind.name for kind in KINDS)
TAKE_ADAPTERS: Final = tuple(kind.name for kind in KINDS if kind.takes_adapters)
_BY_NAME: Final = {kind.name: kind for kind in KINDS}


def find(name: str) -> EngineKind | None:
    """The engine of this name; None if there is none, as in the card of a later release."""
    return _BY_NAME.get(name)


def task(name: str) -> Task:
    """What models of the engine `name` are for; of one that isn't known here, to generate."""
    kind = find(name)
    return kind.task if kind is not None else Task.GENERATE
