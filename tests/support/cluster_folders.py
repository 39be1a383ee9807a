"""The nodes of a cluster with a folder each, as machines have: not all are told the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.support.cluster_process import Member
from tests.support.node_process import tether

CONFIG = """
[node]
data_dir = "data/{{node}}"
metrics = "{metrics}"
identity_dir = {identity}
warm_spares = 0
[http]
host = "{host}"
port = {http}
{more}
[[models]]
name = "echo"
engine = "echo"
[[workers]]
id = "echo"
models = ["echo"]
slots = 32
"""


@dataclass(frozen=True)
class Listed:
    """A node as `[[nodes]]` has it. It has no database unless it has the role control."""

    id: str
    roles: tuple[str, ...]
    host: str = "127.0.0.1"
    admin_port: int = 1900
    region: str = ""
    leader: bool = False
    inside: tuple[str, ...] = ()

    @property
    def section(self) -> str:
        return (
            f'[[nodes]]\nid = "{self.id}"\nhost = "{self.host}"\nregion = "{self.region}"\n'
            f"admin_port = {self.admin_port}\nroles = {json.dumps(self.roles)}\n"
            f"leader = {json.dumps(self.leader)}\n"
        )


def furnished(
    folder: Path,
    nodes: Iterable[Listed],
    *,
    http: int,
    stores: str,
    metrics: str = "127.0.0.1:0",
    door: str = "127.0.0.1",
    more: Callable[[Listed], str] = lambda _: "",
) -> dict[str, Member]:
    """An authority in `folder`, and for each node a certificate with its roles, and a folder with
    its configuration; `stores` is for those with the role control, `more` for each."""
    listed = tuple(nodes)
    issue = [("ca", "issue", n.id, "--ca", "ca", "--roles", ",".join(n.roles)) for n in listed]
    for command in (("ca", "init", "ca", "--cluster", "tether"), *issue):
        made = tether(*command, cwd=folder)
        assert made.returncode == 0, made.stderr
    members: dict[str, Member] = {}
    for node in listed:
        place = folder / node.id
        place.mkdir()
        own = stores if "control" in node.roles else ""
        text = CONFIG.format(
            metrics=metrics, host=door, http=http, more=f"{own}\n{more(node)}",
            identity=json.dumps(str(folder / "ca/nodes/{node}")),
        )  # fmt: skip
        (place / "cluster.toml").write_text(text + "".join(one.section for one in listed))
        members[node.id] = Member(place, node.id, inside=node.inside)
    return members
