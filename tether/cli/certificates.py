"""The commands `tether ca`, and their arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

_CA = Path("ca")
CaPath = Annotated[Path, Parameter(help="The folder of the authority.")]

ca = App(name="ca", help="The cluster's authority: certificates of its nodes.")


@ca.command
def init(
    folder: Path = _CA,
    *,
    cluster: str = "tether",
    days: float = 3650.0,
    key: Literal["ed25519", "p256"] = "ed25519",
) -> int:
    """Make the authority of a cluster.

    Parameters
    ----------
    folder
        Where its key is kept; no node needs it.
    cluster
        The name of the cluster, as in `cluster.toml`.
    days
        How long the authority is good.
    key
        The kind of its key.
    """
    from tether.cli.ca import init as run

    return run(folder, cluster, days=days, key=key)


@ca.command
def issue(
    node: str,
    *,
    ca: CaPath = _CA,
    roles: str = "",
    hours: float = 24.0,
    key: Literal["ed25519", "p256"] = "ed25519",
    to: Path | None = None,
) -> int:
    """Make a key and a certificate for a node.

    Parameters
    ----------
    node
        The id of the node, or operator:NAME for who operates nodes from elsewhere.
    roles
        What the node may say to others: door, control, worker, or several with commas in between.
        By default all three; give each node those of its entry in [[nodes]] alone.
    hours
        How long the certificate is good.
    key
        The kind of the node's key.
    to
        The folder for its files; by default one in the authority's.
    """
    from tether.cli.ca import issue as run

    return run(ca, node, roles=roles, hours=hours, key=key, to=to)


@ca.command
def renew(
    node: str,
    *,
    ca: CaPath = _CA,
    roles: str = "",
    hours: float | None = None,
    to: Path | None = None,
) -> int:
    """Make a new key and certificate for a node that has one; it takes them over while it runs.

    Parameters
    ----------
    node
        The id of the node.
    roles
        As for `issue`; by default those of the last one. What is taken away is good until the last
        one ends, or `tether ca revoke` revokes its serial.
    hours
        How long the certificate is good; by default as long as the last one.
    to
        The folder for its files; by default one in the authority's.
    """
    from tether.cli.ca import renew as run

    return run(ca, node, roles=roles, hours=hours, to=to)


@ca.command(name="revoke")
def revoke_certificate(which: str, *, ca: CaPath = _CA) -> int:
    """Revoke all certificates of a node, or one by its serial.

    Parameters
    ----------
    which
        The id of the node, or a serial; `tether ca list` shows them.
    """
    from tether.cli.ca import revoke as run

    return run(ca, which)


@ca.command(name="list")
def list_certificates(*, ca: CaPath = _CA, json: bool = False) -> int:
    """List the certificates that were issued.

    Parameters
    ----------
    json
        One JSON object a line.
    """
    from tether.cli.ca import list_ as run

    return run(ca, as_json=json)
