"""What object stores and other nodes say of artifacts: manifests, signatures and what was signed,
the names of artifacts and of files in them; and the trust store, which an operator writes.

Nothing of it is believed before its digest or its signature was found right, and all of it is read
before that.
"""

from __future__ import annotations

import atexit
import base64
import hashlib
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any, Final

import msgspec
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from actors.artifacts import digest as digests
from actors.artifacts import filename, layout, manifest, names, signature
from actors.artifacts.trust import FILE, Trust
from actors.errors import ArtifactRefused
from bench.fuzz.mutation import grown, json_changed
from bench.fuzz.target import LONGEST, Target
from supervision.errors import BadRequest

GROWTH: Final = 64  # an empty table of JSON is two bytes, and one of Python's 64
SLACK: Final = 1 << 18

_HEX: Final = hashlib.sha256(b"x").hexdigest()
_PRIVATE: Final = ec.generate_private_key(ec.SECP256R1())
_KEY: Final = _PRIVATE.public_key()
_PEM: Final = _KEY.public_bytes(
    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
)
_FILES: Final = (
    manifest.File("config.json", 3, "application/json", _HEX, (_HEX,)),
    manifest.File(
        "sub/model.safetensors",
        manifest.BLOCK + 9,
        "application/vnd.safetensors",
        _HEX,
        (digests.of(b"a"), digests.of(b"b")),
    ),
)
_MANIFEST: Final = manifest.make(list(_FILES))
_ADDRESS: Final = digests.address(digests.of(manifest.encode(_MANIFEST)))
_changed = grown(json_changed, LONGEST)


def _statement() -> bytes:
    root = hashlib.sha256(bytes.fromhex(_HEX) * len(_FILES)).hexdigest()
    said: dict[str, Any] = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "model", "digest": {"sha256": root}}],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {
            "serialization": {"method": "files", "hash_type": "sha256"},
            "resources": [
                {"name": file.name, "algorithm": "sha256", "digest": file.sha256} for file in _FILES
            ],
        },
    }
    return msgspec.json.encode(said)


def _bundle(payload: bytes) -> bytes:
    kind = "application/vnd.in-toto+json"
    signed = b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(payload), payload)
    sig = _PRIVATE.sign(signed, ec.ECDSA(hashes.SHA256()))
    return msgspec.json.encode(
        {
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": {"publicKey": {"hint": signature.fingerprint(_KEY)}},
            "dsseEnvelope": {
                "payload": base64.b64encode(payload).decode(),
                "payloadType": kind,
                "signatures": [{"sig": base64.b64encode(sig).decode()}],
            },
        }
    )


def read_manifest(data: bytes) -> object:
    return manifest.decode(data, digests.of(data)).blocks()


def read_signature(data: bytes) -> object:
    """Judged as that of an artifact, by who trusts our key."""
    trusted = Trust(_trusted, {})
    return trusted.check(_ADDRESS, _MANIFEST, [data], datetime.now(UTC))


def read_statement(data: bytes) -> object:
    """What whoever has the key may sign."""
    signature.verify(signature.parse(_bundle(data)), _KEY, _MANIFEST)
    return None


def read_trust(data: bytes) -> object:
    folder = _folder()
    (folder / FILE).write_bytes(data)
    return Trust.load(folder)


def read_name(data: bytes) -> object:
    """An object that a name stands for; and the same bytes as a name, and as one of a file."""
    found = names.read(data)
    text = data.decode("utf-8", "surrogateescape")
    listed = text.split("\n")[: manifest.MAX_FILES]
    good = [name for name in listed if not filename.fault(name)]
    clash = filename.clash(good)
    kinds = [filename.media_type(name) for name in good]
    digest = layout.digest_in(text)
    assert digest is None or len(digest) == 64
    return found, clash, kinds, layout.ref(text)


def _name_changed(data: bytes, random: Random) -> bytes:
    if random.random() < 0.2:
        return data + random.choice((b"\n", b"/", b"..", b".", b"@1", b"\0", b"A", b".PT", b"~"))
    return json_changed(data, random)


_folders: list[Path] = []


def _folder() -> Path:
    if not _folders:
        made = tempfile.mkdtemp(prefix="fz")
        atexit.register(shutil.rmtree, made, ignore_errors=True)
        _folders.append(Path(made))
        (_folders[0] / "key.pem").write_bytes(_PEM)
        (_folders[0] / "no.pem").write_bytes(b"-----BEGIN PUBLIC KEY-----\nnone\n")
    return _folders[0]


def _load() -> Trust:
    text = '[[keys]]\nname = "k"\nfile = "key.pem"\n'
    trusted = read_trust(text.encode())
    assert isinstance(trusted, Trust)
    return trusted


_trusted: Final = _load().keys

MANIFESTS: Final = Target(
    name="manifests",
    read=read_manifest,
    seeds=(manifest.encode(_MANIFEST), manifest.encode(manifest.make([_FILES[0]]))),
    growth=GROWTH,
    slack=SLACK,
    ours=(ArtifactRefused,),
    classes=(manifest.File, manifest.Manifest),
    change=_changed,
    longest=LONGEST,
)
SIGNATURES: Final = Target(
    name="signatures",
    read=read_signature,
    seeds=(_bundle(_statement()),),
    growth=GROWTH,
    slack=SLACK,
    ours=(ArtifactRefused,),
    classes=(signature.Bundle,),
    change=_changed,
    longest=LONGEST,
)
STATEMENTS: Final = Target(
    name="statements",
    read=read_statement,
    seeds=(_statement(),),
    growth=GROWTH,
    slack=SLACK,
    ours=(signature.SignatureUnusable,),
    classes=(manifest.Manifest,),
    change=_changed,
    longest=LONGEST,
)
TRUST_STORES: Final = Target(
    name="trust stores",
    read=read_trust,
    seeds=(
        b'[[keys]]\nname = "a"\nfile = "key.pem"\nnot_before = 2026-01-01T00:00:00Z\n'
        b'revoked = "stolen"\n[[revoked]]\nartifact = "%s"\nreason = "old"\n' % _ADDRESS.encode(),
        b'[[keys]]\nname = "b"\nfile = "no.pem"\n',
        b"revoked = [{artifact = 'sha256:0'}]\nkeys = [{name = \"c\", file = '../key.pem'}]\n",
    ),
    growth=128,  # a line of TOML is read by Python
    slack=SLACK,
    ours=(ArtifactRefused,),
    classes=(Trust,),
    change=_changed,
    longest=16 << 10,  # an operator writes it
)
NAMES: Final = Target(
    name="artifact names",
    read=read_name,
    seeds=(
        _ADDRESS.encode(),
        b"org/smollm2@1",
        b"config.json\nsub/model.safetensors\nREADME\ntokenizer.model\nsub",
        f"manifests/{_HEX}.json".encode(),
    ),
    growth=GROWTH,
    slack=SLACK,
    ours=(BadRequest,),
    change=grown(_name_changed, LONGEST),
    longest=LONGEST,
)
