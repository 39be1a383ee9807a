"""Signing a folder with OpenSSF model-signing, offline, with a P-256 key.

Only publishers need the library (extra `signing`); nodes read its signatures themselves.
"""

from __future__ import annotations

import tempfile
from importlib import util
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey

from actors.artifacts import signature
from actors.artifacts.manifest import Manifest
from actors.artifacts.signature import SignatureUnusable
from actors.errors import ArtifactRefused
from supervision.errors import BadRequest


def sign(folder: Path, manifest: Manifest, key_file: Path) -> bytes:
    """A signature of `folder`, whose manifest this is, by the key in `key_file` (PEM). Blocks.

    Raises:
        BadRequest: the key is of no use, or the library is not installed.
        ArtifactRefused: the folder has changed since the manifest was made.
    """
    try:
        key = serialization.load_pem_private_key(key_file.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise BadRequest(f"the key {key_file} can't be read: {error}") from None
    if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP256R1):
        raise BadRequest(
            f"{key_file} is no P-256 key; make one with "
            "`openssl ecparam -name prime256v1 -genkey -noout`"
        )
    if util.find_spec("model_signing") is None:
        raise BadRequest("signing needs model-signing; run pip install 'tether[signing]'")
    import model_signing

    with tempfile.TemporaryDirectory() as scratch:
        written = Path(scratch) / "model.sig"
        config = model_signing.signing.Config()  # type: ignore[no-untyped-call]
        config.use_elliptic_key_signer(private_key=key_file).sign(folder, written)
        content = written.read_bytes()
    try:
        signature.verify(signature.parse(content), key.public_key(), manifest)
    except SignatureUnusable as error:
        raise ArtifactRefused(f"{folder} has changed while it was signed: {error}") from None
    return content
