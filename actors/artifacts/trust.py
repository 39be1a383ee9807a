"""The trust store: a folder with `trust.toml` and the public keys whose signatures count.

::

    [[keys]]
    name = "release-2026"
    file = "release-2026.pem"            # public, P-256, in the same folder
    not_before = 2026-01-01T00:00:00Z    # judged when a model is loaded: a signature made
    not_after = 2027-01-01T00:00:00Z     # without a network carries no time that proves anything
    revoked = "laptop stolen in June"    # from now on, for everything it ever signed

    [[revoked]]
    artifact = "sha256:…"
    reason = "answers with training data"

Keys are rotated by listing the new one beside the old, and signing what is in use again: an
artifact may have any number of signatures, and one that counts is enough.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from actors.artifacts import digest as digests
from actors.artifacts import signature
from actors.artifacts.manifest import Manifest
from actors.artifacts.signature import SignatureUnusable
from actors.errors import ArtifactRefused
from supervision.errors import BadRequest
from supervision.unreadable import UNREADABLE

FILE: Final = "trust.toml"
MOST: Final = 256 << 10  # bytes of it
MOST_DOTS: Final = 16  # in a line, outside of texts
_TEXT: Final = re.compile(rb"""\"(?:[^"\\]|\\.)*+"|'[^']*+'""")


class TrustedKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key as `trust.toml` lists it. `revoked` is why, and empty while it isn't."""

    name: str
    file: str
    not_before: datetime | None = None
    not_after: datetime | None = None
    revoked: str = ""


class Revoked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An artifact that is not loaded any more, whoever signed it."""

    artifact: str
    reason: str = "no reason given"


class _Listed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    keys: tuple[TrustedKey, ...] = ()
    revoked: tuple[Revoked, ...] = ()


class Trust:
    """
    Args:
        keys: by fingerprint.
        revoked: reasons by digest of manifest.
    """

    def __init__(
        self, keys: dict[str, tuple[TrustedKey, EllipticCurvePublicKey]], revoked: dict[str, str]
    ) -> None:
        self.keys = keys
        self.revoked = revoked

    @classmethod
    def load(cls, folder: Path) -> Trust:
        """Read anew each time a model is asked for, so a revocation counts from the next load.

        Raises:
            ArtifactRefused: there is none, or it can't be read. It is never taken for empty.
        """
        path = folder / FILE
        try:
            listed = msgspec.toml.decode(_bounded(path), type=_Listed)
            keys: dict[str, tuple[TrustedKey, EllipticCurvePublicKey]] = {}
            for key in listed.keys:
                path = folder / key.file
                if Path(key.file).name != key.file:
                    raise ValueError("it must lie in the same folder")
                for moment in (key.not_before, key.not_after):
                    if moment is not None and moment.tzinfo is None:
                        raise ValueError(f"the times of {key.name} need a time zone: append Z")
                public = signature.read_key(path.read_bytes())
                name = signature.fingerprint(public)
                if name in keys:
                    raise ValueError(f"the same key is listed as {keys[name][0].name}")
                keys[name] = key, public
            path = folder / FILE
            revoked = {digests.parse(entry.artifact): entry.reason for entry in listed.revoked}
        except (OSError, ValueError, *UNREADABLE, BadRequest) as error:
            why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise ArtifactRefused(
                f"the trust store {path}: {why}; it says whose models are loaded"
            ) from None
        return cls(keys, revoked)

    def check(
        self, address: str, manifest: Manifest, bundles: Iterable[bytes], now: datetime
    ) -> str:
        """The name of the key that vouches for the artifact.

        Raises:
            ArtifactRefused: none does, and why; of several reasons, the gravest.
        """
        digest = digests.parse(address)
        if digest in self.revoked:
            raise ArtifactRefused(f"{address} was revoked: {self.revoked[digest]}")
        worst = (0, f"{address} is not signed")
        for content in bundles:
            try:
                bundle = signature.parse(content)
                key, public = self._key(bundle.key)
                signature.verify(bundle, public, manifest)
            except SignatureUnusable as error:
                worst = max(worst, (4, f"{address} is refused: {error}"))
                continue
            except LookupError as error:
                worst = max(worst, (1, f"{address} is signed by {error}"))
                continue
            if key.revoked:
                why = f"signed with the key {key.name}, which was revoked: {key.revoked}"
                worst = max(worst, (3, f"{address} is {why}"))
            elif key.not_before is not None and now < key.not_before:
                why = f"signed with the key {key.name}, which counts from {key.not_before}"
                worst = max(worst, (2, f"{address} is {why}"))
            elif key.not_after is not None and now >= key.not_after:
                why = f"signed with the key {key.name}, which counted until {key.not_after}"
                worst = max(worst, (2, f"{address} is {why}"))
            else:
                return key.name
        raise ArtifactRefused(worst[1])

    def _key(self, fingerprint: str) -> tuple[TrustedKey, EllipticCurvePublicKey]:
        found = self.keys.get(fingerprint)
        if found is None:
            raise LookupError(f"a key that nobody here trusts ({fingerprint[:16]}…)")
        return found


def _bounded(path: Path) -> bytes:
    """The file, if it can be decoded in a memory that grows as it does: Python's decoder takes the
    square of a key with many dots.

    Raises:
        OSError, ValueError: it can't be read, or not so.
    """
    with path.open("rb") as file:
        content = file.read(MOST + 1)
    if len(content) > MOST:
        raise ValueError(f"it has more than {MOST} bytes")
    for number, line in enumerate(content.splitlines(), 1):
        if line.count(b".") > MOST_DOTS and _TEXT.sub(b"", line).count(b".") > MOST_DOTS:
            raise ValueError(f"line {number} has a key of more than {MOST_DOTS} parts")
    return content
