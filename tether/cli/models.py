"""The commands `tether models` and `tether artifacts`, and their arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

_CONFIG = Path("cluster.toml")
ConfigPath = Annotated[Path, Parameter(name=["--config", "-c"], help="The configuration file.")]
Which = Annotated[str, Parameter(help="name@version, or an address (sha256:…).")]

models = App(name="models", help="Publish, fetch and verify models.")
artifacts = App(name="artifacts", help="Keep the replicas of all models whole and tidy.")


@models.command
def push(
    folder: Path,
    name: str,
    *,
    key: Path | None = None,
    signature: Path | None = None,
    unsigned: bool = False,
    config: ConfigPath = _CONFIG,
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
    """
    from tether.cli.artifacts import push as run

    return run(config, folder, name, key=key, signature=signature, unsigned=unsigned)


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
def list_(*, config: ConfigPath = _CONFIG, json: bool = False) -> int:
    """List the models at the replicas.

    Parameters
    ----------
    json
        One JSON object a line.
    """
    from tether.cli.artifacts import list_ as run

    return run(config, as_json=json)


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
def repair(*, quick: bool = False, config: ConfigPath = _CONFIG) -> int:
    """Read all that the replicas have, and make each of them whole from the others.

    Parameters
    ----------
    quick
        Look at sizes only.
    """
    from tether.cli.artifacts import repair as run

    return run(config, quick=quick)


@artifacts.command
def gc(*, grace_hours: float = 24.0, config: ConfigPath = _CONFIG) -> int:
    """Condemn what no name and no model of the configuration refers to; remove what an earlier
    run has condemned.

    Parameters
    ----------
    grace_hours
        How long something stays condemned; no push may take longer.
    """
    from tether.cli.artifacts import gc as run

    return run(config, grace_hours=grace_hours)


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
