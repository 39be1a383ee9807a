"""The commands `tether limits`, and their arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from tether.config import Config, load

_CONFIG = Path("cluster.toml")
ConfigPath = Annotated[Path, Parameter(name=["--config", "-c"], help="The configuration file.")]
NodeId = Annotated[
    str, Parameter(help="Which of its [[nodes]]; by default the only one, or TETHER_NODE.")
]

limits = App(name="limits", help="What tenants may use a minute, and at once.")


@limits.command(name="list")
def list_(*, config: ConfigPath = _CONFIG, node: NodeId = "", json: bool = False) -> int:
    """Show the limits of all tenants.

    Parameters
    ----------
    json
        One JSON object a line; null is the default.
    """
    from tether.cli.limits import list_ as run

    return run(_read(config, node), as_json=json)


@limits.command
def show(
    tenant: str, *, config: ConfigPath = _CONFIG, node: NodeId = "", json: bool = False
) -> int:
    """Show the limits of one tenant.

    Parameters
    ----------
    tenant
        Whose.
    json
        As a JSON object; null is the default.
    """
    from tether.cli.limits import show as run

    return run(_read(config, node), tenant, as_json=json)


@limits.command(name="set")
def set_(
    tenant: str,
    *,
    requests: int | None = None,
    tokens: int | None = None,
    concurrency: int | None = None,
    config: ConfigPath = _CONFIG,
    node: NodeId = "",
) -> int:
    """Set limits of a tenant; gateways heed them within a second. What isn't named stays.

    Parameters
    ----------
    tenant
        Whose.
    requests
        A minute, in the whole cluster.
    tokens
        A minute, of prompts and answers together.
    concurrency
        Requests at once.
    """
    from tether.cli.limits import set_ as run

    return run(
        _read(config, node), tenant, requests=requests, tokens=tokens, concurrency=concurrency
    )


@limits.command
def clear(tenant: str, *, config: ConfigPath = _CONFIG, node: NodeId = "") -> int:
    """Give a tenant the limits of the configuration again.

    Parameters
    ----------
    tenant
        Whom.
    """
    from tether.cli.limits import clear as run

    return run(_read(config, node), tenant)


def _read(path: Path, node: str) -> Config:
    """With a DSN it doesn't matter which node this is."""
    config = load(path)
    return config if config.stores.postgres and not node else load(path, node)
