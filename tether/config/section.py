"""What all sections of `cluster.toml` are made of. Pure."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

Word = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
Tenant = Annotated[str, Meta(pattern=r"^[a-z0-9]([a-z0-9_-]{0,62}[a-z0-9])?$")]


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """What all sections share: frozen, by keyword."""
