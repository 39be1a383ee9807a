"""The layout of a replica: the path of every object.

::

    blocks/ab/abcd…                  8 MiB at most, named by their digest
    manifests/<digest>.json          named by its digest, which is the artifact's address
    signatures/<manifest>/<digest>.json   any number for a manifest, so that keys can be rotated
    refs/<name>@<version>            the address that a publisher gave this name to
    gc/condemned.json                what the last collection found unused, and since when

All but the last are written once, and never changed.

Pure.
"""

from __future__ import annotations

import re
from typing import Final

from supervision.errors import BadRequest

BLOCKS: Final = "blocks/"
MANIFESTS: Final = "manifests/"
SIGNATURES: Final = "signatures/"
REFS: Final = "refs/"
CONDEMNED: Final = "gc/condemned.json"

_PART: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"
_REF: Final = re.compile(rf"{_PART}(/{_PART})*@{_PART}")
_MAX_REF: Final = 200
_DIGEST: Final = re.compile(r"(?:^|/)([0-9a-f]{64})(?:\.json)?$")


def block(digest: str) -> str:
    return f"{BLOCKS}{digest[:2]}/{digest}"


def manifest(digest: str) -> str:
    return f"{MANIFESTS}{digest}.json"


def signatures(manifest_digest: str) -> str:
    return f"{SIGNATURES}{manifest_digest}/"


def signature(manifest_digest: str, digest: str) -> str:
    return f"{SIGNATURES}{manifest_digest}/{digest}.json"


def ref(text: str) -> str:
    """Where `name@version` is kept.

    Raises:
        BadRequest: `text` is no such name.
    """
    if len(text) > _MAX_REF or not _REF.fullmatch(text):
        raise BadRequest(f"{text!r} is no name@version, such as smollm2@1")
    return REFS + text


def digest_in(path: str) -> str | None:
    """The digest that what lies at `path` must have; None where its name is none."""
    found = _DIGEST.search(path)
    return found[1] if found and not path.startswith((REFS, "gc/")) else None
