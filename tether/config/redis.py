"""The section `[redis]`: where control nodes add up what tenants use of their limits. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

from supervision.settings import Problem, Section

SCHEMES: Final = ("redis", "rediss", "unix")


class RedisSection(Section, frozen=True, kw_only=True):
    """`url` is that of a Redis or Valkey which all control nodes reach: `rediss://host:6379/0` goes
    by TLS, and its certificate must lead to `ca`, a PEM file, or to an authority of the system;
    `redis://` goes unencrypted, and `unix:///path` to a socket of this machine. Empty: each control
    node runs a Valkey of its own, which in a cluster adds up that node's part alone. The password
    stands in `password_file`, which its owner alone may read. Files are taken from the folder of
    the configuration when relative, and `{node}` stands for the id of the node."""

    url: str = ""
    password_file: str = ""
    ca: str = ""


def redis_violations(redis: RedisSection) -> Iterator[Problem]:
    """A problem for each rule that is broken."""
    parts = urlsplit(redis.url)
    if not redis.url:
        for name in ("password_file", "ca"):
            if getattr(redis, name):
                yield Problem(f"redis.{name}", "there is no redis.url to use it for; write one")
        return
    if parts.scheme not in SCHEMES:
        yield Problem(
            "redis.url",
            "this is no URL of a Redis; write rediss://host:6379/0, redis://host:6379/0 or "
            "unix:///path, or leave it empty for the embedded Valkey",
        )
    elif parts.scheme != "unix" and not parts.hostname:
        yield Problem("redis.url", "it names no host; write rediss://host:6379/0")
    if redis.ca and parts.scheme != "rediss":
        yield Problem("redis.ca", "only rediss:// has a certificate; write that, or remove it")
    if parts.password and redis.password_file:
        yield Problem(
            "redis.password_file", "the URL has a password already; remove one of the two"
        )
