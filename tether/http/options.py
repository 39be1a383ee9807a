"""Options of a front door."""

from __future__ import annotations

import ipaddress
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from tether.http.json_bounds import MAX_BYTES

TlsVersion = Literal["1.2", "1.3"]


class DoorOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Options of one front-door process.

    Args:
        handover: where the listening socket is handed over (see `tether.http.handover`); empty
            for a door that has to listen by itself.
        host, port: where it listens, by itself or not.
        share_port: listen with SO_REUSEPORT, so that several doors that do so by themselves share
            one port. Off for a lone door, so that an occupied port is an error instead of half of
            somebody else's traffic.
        gateways: how many gateway partitions the node runs.
        cors_origins: origins of browsers that may call, or `*`; none by default.
        max_body_bytes: larger request bodies get 413.
        body_budget_bytes: of bodies whose requests are under way; above it 503. One tenant gets
            half of it, or one body; above that 429.
        max_requests: inference requests at once; above it 503.
        max_connections: open sockets; above it the first stranger is closed for a new one, which
            gets 503 if there is none.
        max_strangers: open sockets on which no good key was shown yet; above it the first is
            closed.
        max_strangers_per_address: and of one address (IPv6: of one /64).
        default_deadline_s, max_deadline_s: seconds for a request that names no deadline, and the
            most that one may name.
        gateway_wait_s: how long a request waits for a gateway when none is up.
        body_timeout_s: how long a client may take to send its headers, and then its body.
        keep_alive_s: how long an idle connection stays open.
        certificate, key: files for TLS (see `tether.http.certificate`); empty for plain HTTP.
        tls_minimum: the oldest version of TLS that is spoken, "1.2" or "1.3".
        storage: the folder of the node's own PostgreSQL, whose disk may be full; empty for none.
        default_max_tokens: for a chat that names no `max_tokens`.
        elsewhere: the node runs no gateways; those of other nodes, of this `region` first, are
            asked.

    Raises:
        ValueError: a value is out of range; names it.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    share_port: bool = False
    handover: str = ""
    gateways: int = 1
    cors_origins: tuple[str, ...] = ()
    max_body_bytes: int = MAX_BYTES
    body_budget_bytes: int = 128 << 20
    max_requests: int = 2048
    max_connections: int = 8192
    max_strangers: int = 1024
    max_strangers_per_address: int = 256
    default_deadline_s: float = 120.0
    max_deadline_s: float = 600.0
    gateway_wait_s: float = 10.0
    body_timeout_s: float = 30.0
    keep_alive_s: float = 75.0
    default_max_tokens: int = 256
    storage: str = ""
    certificate: str = ""
    key: str = ""
    tls_minimum: TlsVersion = "1.2"
    elsewhere: bool = False
    region: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ValueError(f"http.port is {self.port}; choose one between 0 and 65535")
        for name in (
            "gateways",
            "max_body_bytes",
            "max_requests",
            "max_connections",
            "max_strangers",
            "max_strangers_per_address",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"http.{name} is {getattr(self, name)}; it must be at least 1")
        if self.max_body_bytes > MAX_BYTES:
            raise ValueError(
                f"http.max_body_bytes is {self.max_body_bytes}; what a door takes to read one is "
                f"bounded up to {MAX_BYTES}: lower it"
            )
        if self.body_budget_bytes < self.max_body_bytes:
            raise ValueError(
                f"http.body_budget_bytes is {self.body_budget_bytes} and below "
                f"http.max_body_bytes, {self.max_body_bytes}; no such body could be taken: raise it"
            )
        for name in ("default_deadline_s", "max_deadline_s", "gateway_wait_s", "body_timeout_s"):
            if not 0 < getattr(self, name) <= 86_400:
                raise ValueError(
                    f"http.{name} is {getattr(self, name)}; it must be seconds within a day"
                )
        if bool(self.certificate) != bool(self.key):
            raise ValueError("http.tls has only one of certificate and key; give both, or neither")
        if self.default_deadline_s > self.max_deadline_s:
            raise ValueError(
                f"http.default_deadline_s is {self.default_deadline_s} and above "
                f"http.max_deadline_s, {self.max_deadline_s}; lower the one or raise the other"
            )
        for origin in self.cors_origins:
            parts = urlsplit(origin)
            if origin != "*" and not (parts.scheme and parts.netloc and not parts.path):
                raise ValueError(
                    f"http.cors_origins holds {origin!r}; write it as https://host or *"
                )

    @property
    def ipv6(self) -> bool:
        """Whether `host` is an IPv6 address."""
        try:
            return ipaddress.ip_address(self.host).version == 6
        except ValueError:
            return False
