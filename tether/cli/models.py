"""The commands `tether models` and `tether artifacts`, and their arguments."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from actors.core import engine_kinds
from tether.config import load

_CONFIG = Path("cluster.toml")
ConfigPath = Annotated[Path, Parameter(name=["--config", "-c"], help="The configuration file.")]
NodeId = Annotated[
    str, Parameter(help="Which of its [[nodes]]; by default the only one, or TETHER_NODE.")
]
Version = Annotated[str, Parameter(help="The name@version.")]
Which = Annotated[str, Parameter(help="name@version, or an address (sha256:…).")]

models = App(name="models", help="Publish, fetch and verify models; offer their versions.")
artifacts = App(name="artifacts", help="Keep the replicas of all models whole and tidy.")


@Parameter(name="*")
@dataclass(frozen=True)
class Described:
    """What a version is."""

    engine: str
    """gguf, transformers, vllm, embedding or echo."""
    adapter: str = ""
    """A LoRA adapter over it: a folder, package:NAME or artifact:sha256:…"""
    context: int = 2048
    """The longest prompt and answer, in tokens."""
    dtype: str = "float32"
    """float32 or bfloat16."""
    gpu_class: str = ""
    """What kind of GPU its workers must have."""
    memory_mib: int = 0
    """How much memory it needs; 0: as its files are large."""
    policy: tuple[str, ...] = ()
    """A file of TOML, or KEY=VALUE, as [models.policy] has them; may be repeated."""
    special_tokens_in_text: bool = False
    """Clients may write its control tokens by name, and so forge turns."""


@dataclass(frozen=True)
class PushReport(Described):
    """The same for a version that is pushed."""

    engine: str = "transformers"


@models.command
def push(
    folder: Path,
    name: str,
    *,
    key: Path | None = None,
    signature: Path | None = None,
    unsigned: bool = False,
    register: bool = False,
    described: Annotated[PushReport, Parameter(name="*")] = PushReport(),
    config: ConfigPath = _CONFIG,
    node: NodeId = "",
) -> int:
    """Sign a folder, send it to the replicas, and print its address.

    Parameters
    ----------
    folder
        A Hugging Face folder, or one with a GGUF file.
    name
        What it is called, as name@version; a version is never changed.
    key
        Sign with this private key (PEM, P-256).
    signature
        Send a signature that `model_signing sign key` made elsewhere.
    unsigned
        Send it without; nobody loads it unless trust is off.
    register
        Have the registry of the running node take it, too.
    """
    from tether.cli import registry
    from tether.cli.artifacts import push as run
    from tether.cli.description import Description

    if not register:
        return run(config, folder, name, key=key, signature=signature, unsigned=unsigned)
    there, of = load(config, node), Description(**asdict(described))
    registry.shown_by(there, name)  # no push for nothing: the node runs, and can be asked
    of.card(name, "artifact:sha256:" + "0" * 64)
    code = run(config, folder, name, key=key, signature=signature, unsigned=unsigned)
    return code or registry.register_pushed(there, name, of)


@models.command
def register(
    version: Version,
    *,
    source: str = "",
    described: Described,
    config: ConfigPath = _CONFIG,
    node: NodeId = "",
) -> int:
    """Have the registry of the running node take a version; `promote` offers it.

    Parameters
    ----------
    source
        A folder, a .gguf file, package:NAME, or artifact:sha256:…; by default what was pushed as
        this name@version.
    """
    from tether.cli import registry
    from tether.cli.description import Description

    there, of = load(config, node), Description(**asdict(described))
    kind = engine_kinds.find(of.engine)
    if source or (kind is not None and not kind.weights):
        return registry.register(there, of.card(version, source))
    return registry.register_pushed(there, version, of)


@models.command
def show(
    model: Annotated[str, Parameter(help="A name, or name@version; by default all.")] = "",
    *,
    history: bool = False,
    json: bool = False,
    config: ConfigPath = _CONFIG,
    node: NodeId = "",
) -> int:
    """Show what the registry of the running node has.

    Parameters
    ----------
    history
        What was done with it, by whom; the last 200 changes.
    json
        One JSON object a line.
    """
    from tether.cli.registry import show as run

    return run(load(config, node), model, history=history, as_json=json)


@models.command
def promote(
    version: Version,
    *,
    to: Literal["", "canary", "stable"] = "",
    config: ConfigPath = _CONFIG,
    node: NodeId = "",
) -> int:
    """Offer a version: first as a canary, to a share of the requests, then to all.

    Parameters
    ----------
    to
        The stage; by default the next one. A stable version becomes current with it.
    """
    from tether.cli.registry import promote as run

    return run(load(config, node), version, to)


@models.command
def rollback(
    model: Annotated[str, Parameter(help="A name, or name@version.")],
    *,
    config: ConfigPath = _CONFIG,
    node: NodeId = "",
) -> int:
    """Take back the canary of a name; if it has none, its current version."""
    from tether.cli.registry import rollback as run

    return run(load(config, node), model)


@models.command
def retire(
    version: Version,
    *,
    force: bool = False,
    config: ConfigPath = _CONFIG,
    node: NodeId = "",
) -> int:
    """Offer a version no more, to nobody.

    Parameters
    ----------
    force
        Also the only stable version of a name.
    """
    from tether.cli.registry import retire as run

    return run(load(config, node), version, force=force)


@models.command
def sign(
    model: Which,
    *,
    key: Path | None = None,
    signature: Path | None = None,
    config: ConfigPath = _CONFIG,
) -> int:
    """Add a signature to a model that was pushed, such as with a new key.

    Parameters
    ----------
    key
        Sign with this private key (PEM, P-256).
    signature
        Send a signature that `model_signing sign key` made elsewhere.
    """
    from tether.cli.artifacts import sign as run

    return run(config, model, key=key, signature=signature)


@models.command
def pull(model: Which, *, pin: bool = False, config: ConfigPath = _CONFIG) -> int:
    """Fetch a model into this machine's cache, and print its folder.

    Parameters
    ----------
    pin
        Never evict it.
    """
    from tether.cli.artifacts import pull as run

    return run(config, model, pin=pin)


@models.command
def verify(model: Which, *, config: ConfigPath = _CONFIG) -> int:
    """Read every byte of a model in the cache again, and check who signed it."""
    from tether.cli.artifacts import verify as run

    return run(config, model)


@models.command(name="ls")
def list_(*, config: ConfigPath = _CONFIG, node: NodeId = "", json: bool = False) -> int:
    """List the models at the replicas, and where they stand if the node runs.

    Parameters
    ----------
    json
        One JSON object a line.
    """
    from tether.cli.listing import list_ as run

    return run(config, node, as_json=json)


@models.command
def pin(model: Which, *, config: ConfigPath = _CONFIG) -> int:
    """Never evict a model from this machine's cache."""
    from tether.cli.artifacts import pin as run

    return run(config, model, pinned=True)


@models.command
def unpin(model: Which, *, config: ConfigPath = _CONFIG) -> int:
    """Let a model be evicted when the cache is full."""
    from tether.cli.artifacts import pin as run

    return run(config, model, pinned=False)


@artifacts.command
def repair(*, quick: bool = False, config: ConfigPath = _CONFIG, node: NodeId = "") -> int:
    """Read all that the replicas have, and make each of them whole from the others.

    Parameters
    ----------
    quick
        Look at sizes only.
    """
    from tether.cli.artifacts import repair as run

    return run(config, node, quick=quick)


@artifacts.command
def gc(*, grace_hours: float = 24.0, config: ConfigPath = _CONFIG, node: NodeId = "") -> int:
    """Condemn what no name, no model of the configuration and no version of the registry refers
    to; remove what an earlier run has condemned.

    Parameters
    ----------
    grace_hours
        How long something stays condemned, and what a retired version is made of stays in use; no
        push may take longer.
    """
    from tether.cli.artifacts import gc as run

    return run(config, node, grace_hours=grace_hours)


@artifacts.command
def forget(name: str, *, config: ConfigPath = _CONFIG) -> int:
    """Take a name away from the replicas; its blocks go with later collections.

    Parameters
    ----------
    name
        The name@version.
    """
    from tether.cli.artifacts import forget as run

    return run(config, name)
