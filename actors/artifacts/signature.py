"""Reading a signature of OpenSSF model-signing, without its 17 dependencies. Pure.

A bundle of Sigstore (v0.3) with a DSSE envelope, in which an in-toto statement lists the SHA-256
of every file; signed with a P-256 key (github.com/sigstore/model-transparency, version 1; DSSE:
github.com/secure-systems-lab/dsse, protocol 1.0.2). The statement is compared with the manifest,
so a signature is judged before a byte of the weights was fetched. `tests` hold this reader
against the library itself, in both directions.

Pure.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Final

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    EllipticCurvePublicKey,
)

from actors.artifacts.manifest import Manifest
from supervision.unreadable import UNREADABLE

MAX_BUNDLE: Final = 16 << 20
_MEDIA_TYPE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
_STATEMENT: Final = "https://in-toto.io/Statement/v1"
_PREDICATE: Final = "https://model_signing/signature/v1.0"


class SignatureUnusable(Exception):
    """A signature can't be read, isn't of this key, or is about something else."""


class _Camel(msgspec.Struct, frozen=True, rename="camel"):
    pass


class _PublicKey(_Camel, frozen=True):
    hint: str


class _Material(_Camel, frozen=True):
    public_key: _PublicKey


class _Signed(_Camel, frozen=True):
    sig: str


class _Envelope(_Camel, frozen=True):
    payload: str
    payload_type: str
    signatures: tuple[_Signed, ...]


class Bundle(_Camel, frozen=True):
    """A signature as it is stored."""

    media_type: str
    verification_material: _Material
    dsse_envelope: _Envelope

    @property
    def key(self) -> str:
        """The fingerprint of the key that it says it was made with. Nothing vouches for that."""
        return self.verification_material.public_key.hint


class _Digest(msgspec.Struct, frozen=True):
    sha256: str


class _Subject(msgspec.Struct, frozen=True):
    digest: _Digest


class _Serialization(msgspec.Struct, frozen=True):
    method: str
    hash_type: str = "sha256"


class _Resource(msgspec.Struct, frozen=True):
    name: str
    algorithm: str
    digest: str


class _Predicate(msgspec.Struct, frozen=True):
    serialization: _Serialization
    resources: tuple[_Resource, ...]


class _Statement(msgspec.Struct, frozen=True):
    kind: str = msgspec.field(name="_type")
    subject: tuple[_Subject, ...]
    predicate_type: str = msgspec.field(name="predicateType")
    predicate: _Predicate


def fingerprint(key: EllipticCurvePublicKey) -> str:
    """How model-signing names a key: the SHA-256 of its PEM."""
    pem = key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(pem).hexdigest()


def read_key(pem: bytes) -> EllipticCurvePublicKey:
    """
    Raises:
        ValueError: `pem` is no public key on P-256.
    """
    key = serialization.load_pem_public_key(pem)
    if isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1):
        return key
    raise ValueError("it is no public key on the curve P-256")


def parse(content: bytes) -> Bundle:
    """
    Raises:
        SignatureUnusable: these bytes are no bundle of this kind.
    """
    if len(content) > MAX_BUNDLE:
        raise SignatureUnusable(f"a signature of {len(content)} bytes is too long")
    try:
        bundle = msgspec.json.decode(content, type=Bundle)
    except UNREADABLE as error:
        raise SignatureUnusable(f"its signature can't be read: {error}") from None
    if bundle.media_type != _MEDIA_TYPE:
        raise SignatureUnusable(f"its signature is of the unknown kind {bundle.media_type!r}")
    if bundle.dsse_envelope.payload_type != _PAYLOAD_TYPE:
        raise SignatureUnusable("its signature is not about a model")
    if len(bundle.dsse_envelope.signatures) != 1:
        raise SignatureUnusable("its signature is not one, but several or none")
    return bundle


def verify(bundle: Bundle, key: EllipticCurvePublicKey, manifest: Manifest) -> None:
    """That the holder of `key` has signed the files of `manifest`, all of them and no others.

    Raises:
        SignatureUnusable: it was not so; the sentence says what is different.
    """
    envelope = bundle.dsse_envelope
    try:
        payload = base64.b64decode(envelope.payload, validate=True)
        signature = base64.b64decode(envelope.signatures[0].sig, validate=True)
    except (binascii.Error, ValueError):
        raise SignatureUnusable("its signature was damaged: it is no base64") from None
    try:
        key.verify(signature, _authenticated(payload), ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise SignatureUnusable("its signature is wrong: it was changed after signing") from None
    try:
        statement = msgspec.json.decode(payload, type=_Statement)
    except UNREADABLE as error:
        raise SignatureUnusable(f"its signed statement can't be read: {error}") from None
    _compare(statement, manifest)


def _authenticated(payload: bytes) -> bytes:
    """What is signed of a DSSE envelope: its PAE."""
    kind = _PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def _compare(statement: _Statement, manifest: Manifest) -> None:
    predicate = statement.predicate
    if statement.kind != _STATEMENT or statement.predicate_type != _PREDICATE:
        raise SignatureUnusable(f"its signature is a {statement.predicate_type}, not of a model")
    how = predicate.serialization
    if how.method != "files" or how.hash_type != "sha256":
        raise SignatureUnusable(
            f"its signature is over {how.method} by {how.hash_type}; sign files by sha256"
        )
    root = hashlib.sha256()
    signed: dict[str, str] = {}
    for resource in predicate.resources:
        if resource.algorithm != "sha256" or resource.name in signed:
            raise SignatureUnusable(f"its signature names {resource.name} twice, or not by sha256")
        signed[resource.name] = resource.digest
        try:
            root.update(bytes.fromhex(resource.digest))
        except ValueError:
            raise SignatureUnusable("its signature holds a digest that is none") from None
    if [subject.digest.sha256 for subject in statement.subject] != [root.hexdigest()]:
        raise SignatureUnusable("its signature contradicts itself: the root digest is another")
    held = {file.name: file.sha256 for file in manifest.files}
    for name in sorted(held.keys() | signed.keys()):
        if name not in signed:
            raise SignatureUnusable(f"it holds {name}, which was not signed")
        if name not in held:
            raise SignatureUnusable(f"it lacks {name}, which was signed")
        if held[name] != signed[name]:
            raise SignatureUnusable(f"its {name} is not the one that was signed")
