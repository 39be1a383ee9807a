"""The catalog: which models there are, in which versions, and what may be done with them.

A version is registered, then a canary (a share of the requests that name no version), then stable,
then retired. The current version of a name is the stable one that was made so last, so taking it
back makes the one before current again, whose workers are still warm.

Pure.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from actors.contracts.policies import (
    BulkheadTerms,
    DeadlineTerms,
    PolicyName,
    PolicyOrder,
    RateTerms,
    RequestPolicies,
    RetryTerms,
    TimeoutTerms,
)
from supervision.contracts.contract import Contract, Value


class Stage(StrEnum):
    """Where a version stands. Canary and stable ones are loaded and may be asked for."""

    REGISTERED = "registered"
    CANARY = "canary"
    STABLE = "stable"
    RETIRED = "retired"

    @property
    def offered(self) -> bool:
        """May it be asked for?"""
        return self in {Stage.CANARY, Stage.STABLE}


class Slo(StrEnum):
    """Whose request goes first where slots are short."""

    INTERACTIVE = "interactive"  # somebody looks on: before all others
    STANDARD = "standard"  # before batches
    BATCH = "batch"  # nobody waits for it


class Warming(StrEnum):
    """When workers load a version."""

    ALWAYS = "always"  # at once, and it is never let go for another
    DEMAND = "demand"  # as there is room, and when it is asked for


class Task(StrEnum):
    """What a model is for."""

    GENERATE = "generate"  # it writes answers
    EMBED = "embed"  # it makes vectors of texts


class Move(StrEnum):
    """What an operator does with a version; see `MoveModel`."""

    PROMOTE = "promote"  # to the next stage
    ROLLBACK = "rollback"  # the canary, or else the current version, is registered again
    RETIRE = "retire"  # it may not be asked for any more


class Change(StrEnum):
    """What was done with a version, in its history."""

    REGISTERED = "registered"  # it came into the catalog, or came back
    CHANGED = "changed"  # it is described otherwise, or its policy is another
    PROMOTED = "promoted"  # it is a canary, or stable
    ROLLED_BACK = "rolled_back"  # it was taken back
    RETIRED = "retired"  # for good


class ModelPolicy(Value, frozen=True):
    """Who may use a version, where, and how much.

    `tenants` and `regions` of whom nobody is named are all of them. `max_tokens` bounds one answer,
    `concurrency` the requests of one tenant at one gateway; 0 is no limit. Where slots are short,
    `slo` says who goes first. A client that gives no `max_tokens` gets at most `reserve_tokens`,
    and so much is reserved of a budget; 0: the front door's default. `canary_share` (0 to 1) of the
    requests that name no version go to it while it is a canary.

    `order` are the policies that a request passes at its gateway, outermost first; what isn't said
    (empty, None) is as for all models, see `RequestPolicies`.
    """

    tenants: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()
    max_tokens: int = 0
    concurrency: int = 0
    slo: Slo = Slo.STANDARD
    canary_share: float = 0.1
    warm: Warming = Warming.DEMAND
    order: PolicyOrder = ()
    rate: RateTerms | None = None
    deadline: DeadlineTerms | None = None
    retry: RetryTerms | None = None
    bulkhead: BulkheadTerms | None = None
    timeout: TimeoutTerms | None = None
    reserve_tokens: int = 0

    def policies(self, of_all: RequestPolicies) -> RequestPolicies:
        """Those that a request to this version passes."""
        said: dict[str, object] = {
            name: terms for name in PolicyName if (terms := getattr(self, name)) is not None
        }
        if self.order:
            said["order"] = self.order
        return msgspec.structs.replace(of_all, **said) if said else of_all


class ModelCard(Value, frozen=True):
    """One version of a model in the catalog. `engine` is gguf, transformers … (see
    `actors.core.engine_kinds`); `source` is a folder, a file, a package-backed name or an artifact
    that the loader understands, and `adapter` the same for a LoRA adapter over it, if not empty;
    `context` is in tokens. `gpu_class` and `memory_mib` are what it needs of a worker (empty: any;
    0: as its files are large). `stage_s` is when it came to its `stage`, in Unix seconds. With
    `special_tokens_in_text` the names of special tokens stand for those in what clients send."""

    name: str
    version: str
    engine: str
    source: str = ""
    context: int = 2048
    dtype: str = "float32"
    created_s: int = 0
    adapter: str = ""
    gpu_class: str = ""
    memory_mib: int = 0
    stage: Stage = Stage.STABLE
    stage_s: float = 0.0
    policy: ModelPolicy = ModelPolicy()
    special_tokens_in_text: bool = False

    @property
    def ref(self) -> str:
        """The full name, `name@version`."""
        return f"{self.name}@{self.version}"

    @property
    def artifacts(self) -> tuple[str, ...]:
        """Those of its sources that are artifacts."""
        return tuple(s for s in (self.source, self.adapter) if s.startswith("artifact:"))


class WatchCatalog(Contract, frozen=True):
    """→ registry, opens a stream of `Catalog`: one at once, then one per change."""


class Catalog(Contract, frozen=True):
    """All models that may be asked for: canary and stable versions."""

    version: int
    models: tuple[ModelCard, ...]


class ListModels(Contract, frozen=True):
    """Front door → gateway: the `Catalog` that this credential may see."""

    credential: str


class ModelChange(Value, frozen=True):
    """One line of a version's history, which is never deleted. `before` and `after` are stages, the
    first one empty for a version that is new; `at_s` is Unix time, `by` who has asked for it."""

    ref: str
    what: Change
    before: str
    after: str
    at_s: float
    by: str
    note: str = ""


class RegisterModel(Contract, frozen=True):
    """An operator's process → registry: put this version into the catalog as registered; its
    `stage` doesn't count. Registered again, it must be the same but for its policy; a retired one
    is registered anew. `by` is who has asked, for the history; `revision` as in `MoveModel`.
    Answered with `ModelsShown` of that version."""

    card: ModelCard
    by: str = ""
    revision: int = 0


class MoveModel(Contract, frozen=True):
    """An operator's process → registry, answered with `ModelsShown` of all that has changed:

    - promote: registered → canary → stable. `to` "stable" leaves the canary out.
    - rollback: the canary of `name` is registered again; if it has none, its current version is,
      and the stable one before is current. `ref` may also name a version.
    - retire: it may not be asked for any more. The last stable version of a name goes only
      by `force`.

    A move to where the version is already changes nothing, so one that names `to`, or for a
    rollback the version, may be asked again. With the `revision` that its asker has seen
    (`ModelsShown`), a move is refused with `ModelConflict` if the name was changed since.
    """

    ref: str
    verb: Move
    to: str = ""
    force: bool = False
    by: str = ""
    revision: int = 0


class ShowModels(Contract, frozen=True):
    """An operator's process → registry: `ModelsShown` of `name`, of `name@version`, or of all (""),
    whatever their stage; with `history`, the newest changes of these too."""

    ref: str = ""
    history: bool = False


class ModelsShown(Contract, frozen=True):
    """`current` are the refs that their names stand for now. `revision` grows with every change.
    `unlisted` are refs of an earlier configuration, which aren't offered whatever their stage."""

    models: tuple[ModelCard, ...]
    current: tuple[str, ...] = ()
    history: tuple[ModelChange, ...] = ()
    revision: int = 0
    unlisted: tuple[str, ...] = ()


class Govern(Contract, frozen=True):
    """Front door → gateway, asked: what an operator wants of the registry. Answered as that
    answers, if the credential is an operator's."""

    credential: str
    request: RegisterModel | MoveModel | ShowModels
