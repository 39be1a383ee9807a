"""Options of the runtime, as a node's capabilities say them: one frozen value."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from supervision.runtime.address import Address
from supervision.runtime.routes import ListenAddress, Routes
from supervision.runtime.wire import MAX_FRAME

DEFAULT_PORT: Final = 1900  # Thespian's
_HOSTS: Final = {"": "127.0.0.1", "localhost": "127.0.0.1"}
_MAX_FRAME: Final = 1 << 30
_MAX_SPARES: Final = 16


class NodeOptions(msgspec.Struct, frozen=True, kw_only=True):
    """From the capabilities of `ActorSystem("tether", capabilities)`:

    - "Node Id": the name of the node; by default host and Admin port.
    - "Admin Port": part of the Admin's address; where it listens for other nodes, if it does.
    - "Run Dir": folder of the sockets, short, mode 0700, the same for all who want to talk.
    - "Actor Classes": which actors may be started here, each "module:Class" or "module.*".
    - "Placed Classes": which of them another node may have started here; all, if it isn't said.
    - "Placing Roles": what the certificate of such a node must say, one of these; any by default.
    - "Max Frame": bytes of the largest message.
    - "Tls Identity Dir": folder with the node's certificate, see `supervision.security.identity`;
      other nodes are reached by mutual TLS alone then.
    - "Revoked Dir": folder, made if need be, with the newest revocation list that the node has
      heard of; it is looked at beside the one in the "Tls Identity Dir".
    - "Listen": where other nodes come in, "host" or "host:first-last": every process takes a
      port. Without it the node's processes can dial, and not be dialed.
    - "Routes": node id to "host" or "host:admin port" of the other nodes.
    - "Owner Pid": the system shuts down when this process ends; 0 for none.
    - "Warm Spares": how many processes each supervisor keeps that have imported all that its
      children need and wait to be one of them; 0 by default.
    - "Spare Modules": what they import besides, such as "torch".
    """

    node: str
    port: int
    run_dir: str
    actor_classes: tuple[str, ...] = ()
    placed_classes: tuple[str, ...] | None = None
    max_frame: int = MAX_FRAME
    owner_pid: int = 0
    identity_dir: str = ""
    revoked_dir: str = ""
    listen: str = ""
    routes: tuple[tuple[str, str], ...] = ()
    warm_spares: int = 0
    spare_modules: tuple[str, ...] = ()
    placing_roles: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        Address.admin(self.node, self.port)
        if not 4096 <= self.max_frame <= _MAX_FRAME:
            raise ValueError(f"'Max Frame' {self.max_frame} must lie in 4096..{_MAX_FRAME}")
        if not 0 <= self.warm_spares <= _MAX_SPARES:
            raise ValueError(f"'Warm Spares' {self.warm_spares} must lie in 0..{_MAX_SPARES}")
        for what, entries in (
            ("Actor Classes", self.actor_classes),
            ("Placed Classes", self.placed_classes or ()),
        ):
            for entry in entries:
                if not (entry.endswith(".*") or entry.count(":") == 1):
                    raise ValueError(
                        f'{what!r} holds {entry!r}: write "module:Class" or "module.*"'
                    )
        Routes(dict(self.routes))
        if self.listen:
            place = ListenAddress.parse(self.listen)
            if place.first <= self.port <= place.last:
                raise ValueError(
                    f"'Listen' {self.listen!r} holds the Admin's port {self.port}, which no other "
                    "process may take: choose another range"
                )
            if not self.identity_dir:
                raise ValueError(
                    "'Listen' needs a 'Tls Identity Dir': nobody is let in without a certificate"
                )

    @classmethod
    def of(cls, capabilities: Mapping[str, Any]) -> NodeOptions:
        """
        Raises:
            ValueError: a capability has no sensible value.
        """
        port = int(capabilities.get("Admin Port", DEFAULT_PORT))
        return cls(
            node=str(capabilities.get("Node Id") or cls.at("", port).node),
            port=port,
            run_dir=str(capabilities.get("Run Dir") or default_run_dir()),
            actor_classes=tuple(capabilities.get("Actor Classes", ())),
            placed_classes=_listed(capabilities.get("Placed Classes")),
            max_frame=int(capabilities.get("Max Frame", MAX_FRAME)),
            owner_pid=int(capabilities.get("Owner Pid", 0)),
            identity_dir=str(capabilities.get("Tls Identity Dir") or ""),
            revoked_dir=str(capabilities.get("Revoked Dir") or ""),
            listen=str(capabilities.get("Listen") or ""),
            routes=tuple(dict(capabilities.get("Routes") or {}).items()),
            warm_spares=int(capabilities.get("Warm Spares", 0)),
            spare_modules=tuple(capabilities.get("Spare Modules", ())),
            placing_roles=tuple(capabilities.get("Placing Roles", ())),
        )

    @staticmethod
    def at(host: str, port: int) -> Address:
        """The Admin of a node that is known by host and port only."""
        return Address.admin(f"{_HOSTS.get(host, host)}:{port}", port)

    @property
    def admin(self) -> Address:
        return Address.admin(self.node, self.port)

    def allows(self, name: str, node: str = "") -> bool:
        """May an actor of the class `module.Class` be started, if `node` asks for it? By default
        this one does."""
        if not _named(name, self.actor_classes):
            return False
        here = self.placed_classes is None or node in ("", self.node)
        return here or _named(name, self.placed_classes or ())


def _listed(entries: Any) -> tuple[str, ...] | None:
    return None if entries is None else tuple(entries)


def _named(name: str, entries: tuple[str, ...]) -> bool:
    module, _, _ = name.rpartition(".")
    return any(
        (module + ".").startswith(entry[:-1])
        if entry.endswith(".*")
        else entry.replace(":", ".") == name
        for entry in entries
    )


def default_run_dir() -> str:
    """$XDG_RUNTIME_DIR/tether, or a folder of this user below the temporary directory."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    if base:
        return str(Path(base) / "tether")
    return str(Path(tempfile.gettempdir()) / f"tether-{os.geteuid()}")
