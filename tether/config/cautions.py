"""What of a configuration works, and is better otherwise: who may read what goes over the wire.
Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

from supervision.settings import Problem
from tether.config.sections import Config

VERIFIED: Final = "verify-full"
_DOORS: Final = frozenset({"door", "gateway"})  # roles of nodes that have one
_SECRETS: Final = frozenset({"password", "secret", "access_key", "account_key", "sas_token", "sig"})


def cautions(config: Config) -> Iterator[Problem]:
    """One for each; `config` is as the node reads it (`Config.at`)."""
    yield from _door(config)
    place = config.node.metrics_place
    if place is not None and not is_loopback(place[0]):
        yield Problem(
            "node.metrics",
            f"whoever reaches {config.node.metrics} reads, without a key, the names of all models; "
            "write 127.0.0.1 and let Prometheus come through a proxy, or keep others off by a "
            "firewall",
        )
    yield from _database(config.stores.postgres)
    yield from _redis(config)


def _door(config: Config) -> Iterator[Problem]:
    http, member = config.http, config.member
    if http.tls is not None or is_loopback(http.host):
        return
    if member is None or _DOORS.intersection(member.roles):
        yield Problem(
            "http.tls",
            f"keys and prompts go over plain HTTP to {http.host}:{http.port}, where others may "
            "read them on the way; write certificate and key under [http.tls], or listen on "
            "127.0.0.1 behind a proxy that speaks TLS",
        )


def _database(dsn: str) -> Iterator[Problem]:
    if not dsn:
        return
    asked = parse_qs(urlsplit(dsn).query)
    mode = asked.get("sslmode", ["prefer"])[-1]
    if mode == VERIFIED:
        return
    if away := [host for host in hosts_of(dsn) if not is_local(host)]:
        yield Problem(
            "stores.postgres",
            f"with sslmode={mode} whoever is on the way to {', '.join(away)} may be taken for the "
            f"database; write ?sslmode={VERIFIED} into the DSN, and with sslrootcert=FILE whose "
            "certificates count",
        )


def _redis(config: Config) -> Iterator[Problem]:
    if not config.has_role("control"):
        return
    control = [member.id for member in config.nodes if "control" in member.roles]
    parts = urlsplit(config.redis.url)
    if len(control) > 1 and not config.redis.url:
        yield Problem(
            "redis.url",
            f"{', '.join(control)} have no common store of limits, so each holds a tenant to one "
            f"of {len(control)} parts of its limits; write the URL of a Redis or Valkey that all "
            "of them reach",
        )
    elif parts.scheme == "redis" and not is_loopback(parts.hostname or ""):
        yield Problem(
            "redis.url",
            f"its password and all tenants' names go unencrypted to {parts.hostname}; write "
            "rediss:// and, in redis.ca, whose certificates count",
        )


def hosts_of(dsn: str) -> list[str]:
    """The servers that a DSN names, a folder where it is a Unix socket; see "Connection URIs" in
    section 34.1.1 of PostgreSQL's manual. None where it names none, which is a Unix socket too."""
    parts = urlsplit(dsn)
    named = [host for host in parse_qs(parts.query).get("host", [""])[-1].split(",") if host]
    places = parts.netloc.rpartition("@")[2].split(",")
    return named or [unquote(host) for host in map(_host_in, places) if host]


def _host_in(place: str) -> str:
    """`[::1]:5432` or `db:5432`, without port and brackets."""
    if place.startswith("["):
        return place[1:].partition("]")[0]
    return place.partition(":")[0]


def is_local(host: str) -> bool:
    """Is a server there on this machine: at a Unix socket, or on loopback?"""
    return host.startswith(("/", "@")) or is_loopback(host)


def is_loopback(host: str) -> bool:
    """Does only this machine reach who listens there?"""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def secrets_in(config: Config) -> Iterator[str]:
    """The keys of the file that hold a password, or what opens an object store."""
    for path, url in (
        ("stores.postgres", config.stores.postgres),
        ("redis.url", config.redis.url),
        *((f"artifacts.replicas[{n}]", url) for n, url in enumerate(config.artifacts.replicas)),
    ):
        parts = urlsplit(url)
        password = parts.netloc.rpartition("@")[0].partition(":")[2]
        asked = [key.lower() for key in parse_qs(parts.query)]
        if password or any(key.endswith(tuple(_SECRETS)) for key in asked):
            yield path


def passfile_of(dsn: str) -> str:
    """The file from which the password is taken; empty where the DSN names none."""
    return parse_qs(urlsplit(dsn).query).get("passfile", [""])[-1]
