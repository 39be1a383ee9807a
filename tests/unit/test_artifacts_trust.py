"""Whose signature counts, held against model-signing itself in both directions."""

from __future__ import annotations

import base64
import json
from datetime import timedelta
from pathlib import Path

import model_signing
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actors.artifacts import digest, folder, manifest, signature, signing
from actors.artifacts.signature import SignatureUnusable
from actors.artifacts.trust import Trust
from actors.errors import ArtifactRefused
from supervision.errors import BadRequest
from tests.support.artifact_shop import NOW, Signer, make_model, write_trust
from tests.support.properties import examples


class Signed:
    """A small model and a signature of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folder = make_model(path / "model", size=1000)
        self.manifest = folder.scan(self.folder)
        self.digest = digest.of(manifest.encode(self.manifest))
        self.address = digest.address(self.digest)
        self.signer = Signer(path, "release")
        self.bundle = signing.sign(self.folder, self.manifest, self.signer.file)

    def library_accepts(self, bundle: bytes) -> bool:
        """Does model-signing take it for a signature of the folder?"""
        public, written = self.path / "public.pem", self.path / "model.sig"
        public.write_bytes(self.signer.public)
        written.write_bytes(bundle)
        try:
            config = model_signing.verifying.Config()
            config.use_elliptic_key_verifier(public_key=public).verify(self.folder, written)
        except Exception:
            return False
        return True

    def we_accept(self, bundle: bytes) -> bool:
        key = signature.read_key(self.signer.public)
        try:
            signature.verify(signature.parse(bundle), key, self.manifest)
        except SignatureUnusable:
            return False
        return True

    def refusal(self, trust: Path, *bundles: bytes) -> str:
        with pytest.raises(ArtifactRefused) as refused:
            Trust.load(trust).check(self.address, self.manifest, bundles, NOW)
        return refused.value.message


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Signed:
    return Signed(tmp_path_factory.mktemp("signed"))


def test_a_signature_of_the_library_is_read(signed: Signed, tmp_path: Path) -> None:
    trust = write_trust(tmp_path / "trust", signed.signer)
    assert signed.library_accepts(signed.bundle)
    found = Trust.load(trust).check(signed.address, signed.manifest, [signed.bundle], NOW)
    assert found == "release"


@given(st.data())
@settings(
    max_examples=examples(40),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_nothing_that_the_library_refuses_is_accepted(signed: Signed, data: st.DataObject) -> None:
    """A byte of the payload or of the signature, or the payload's text, is changed."""
    bundle = json.loads(signed.bundle)
    envelope = bundle["dsseEnvelope"]
    if data.draw(st.booleans(), label="payload"):
        content = bytearray(base64.b64decode(envelope["payload"]))
    else:
        content = bytearray(base64.b64decode(envelope["signatures"][0]["sig"]))
    at = data.draw(st.integers(0, len(content) - 1), label="at")
    content[at] ^= data.draw(st.integers(1, 255), label="mask")
    changed = base64.b64encode(content).decode()
    if len(content) > 100:
        envelope["payload"] = changed
    else:
        envelope["signatures"][0]["sig"] = changed
    spoiled = json.dumps(bundle).encode()
    assert not signed.we_accept(spoiled)
    assert not signed.library_accepts(spoiled)


@given(st.data())
@settings(max_examples=examples(80), deadline=None)
def test_no_changed_byte_of_a_bundle_changes_what_it_says(
    signed: Signed, data: st.DataObject
) -> None:
    content = bytearray(signed.bundle)
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    if signed.we_accept(bytes(content)):  # it was in something that nobody signs
        assert signature.parse(bytes(content)).dsse_envelope.payload == (
            signature.parse(signed.bundle).dsse_envelope.payload
        )


@pytest.mark.parametrize("spoil", ["change", "add", "remove", "rename"])
def test_another_folder_than_the_one_signed(signed: Signed, tmp_path: Path, spoil: str) -> None:
    other = make_model(tmp_path / "model", size=1000)
    match spoil:
        case "change":
            (other / "tokenizer.json").write_text("[]")
        case "add":
            (other / "more.json").write_text("{}")
        case "remove":
            (other / "README.md").unlink()
        case "rename":
            (other / "README.md").rename(other / "LICENSE")
    key = signature.read_key(signed.signer.public)
    with pytest.raises(SignatureUnusable, match=r"signed"):
        signature.verify(signature.parse(signed.bundle), key, folder.scan(other))


def test_each_reason_is_named(signed: Signed, tmp_path: Path) -> None:
    other = Signer(tmp_path, "other")
    trust = write_trust(tmp_path / "trust", signed.signer)
    assert "is not signed" in signed.refusal(trust)
    assert "can't be read" in signed.refusal(trust, signed.bundle[:-20])
    foreign = signing.sign(signed.folder, signed.manifest, other.file)
    assert "nobody here trusts" in signed.refusal(trust, foreign)
    early = write_trust(tmp_path / "a", signed.signer, not_before="2027-01-01T00:00:00Z")
    assert "release, which counts from 2027" in signed.refusal(early, signed.bundle)
    late = write_trust(tmp_path / "b", signed.signer, not_after="2026-06-01T00:00:00Z")
    assert "release, which counted until 2026-06" in signed.refusal(late, signed.bundle)
    gone = write_trust(tmp_path / "c", signed.signer, revoked='"laptop stolen"')
    assert "release, which was revoked: laptop stolen" in signed.refusal(gone, signed.bundle)
    extra = f'[[revoked]]\nartifact = "{signed.address}"\nreason = "it lies"'
    banned = write_trust(tmp_path / "d", signed.signer, extra=extra)
    assert "was revoked: it lies" in signed.refusal(banned, signed.bundle)


def test_keys_rotate(signed: Signed, tmp_path: Path) -> None:
    """A second signature counts when the first one's key is gone; one that counts is enough."""
    new = Signer(tmp_path, "new")
    again = signing.sign(signed.folder, signed.manifest, new.file)
    trust = write_trust(tmp_path / "trust", new, extra="")
    listed = (trust / "trust.toml").read_text()
    (trust / "release.pem").write_bytes(signed.signer.public)
    (trust / "trust.toml").write_text(
        f'{listed}\n[[keys]]\nname = "release"\nfile = "release.pem"\nrevoked = "rotated"\n'
    )
    check = Trust.load(trust).check
    assert check(signed.address, signed.manifest, [signed.bundle, again], NOW) == "new"
    assert check(signed.address, signed.manifest, [b"{}", again], NOW) == "new"
    assert "rotated" in signed.refusal(trust, signed.bundle)
    soon = write_trust(tmp_path / "soon", new, not_before="2026-11-23T00:00:00Z")
    later = NOW + timedelta(days=2)
    assert Trust.load(soon).check(signed.address, signed.manifest, [again], later) == "new"
    assert "counts from" in signed.refusal(soon, again)


def test_a_hint_alone_proves_nothing(signed: Signed, tmp_path: Path) -> None:
    """Signed with another key, but said to be ours."""
    other = Signer(tmp_path, "other")
    bundle = json.loads(signing.sign(signed.folder, signed.manifest, other.file))
    ours = signature.fingerprint(signed.signer.key.public_key())
    bundle["verificationMaterial"]["publicKey"]["hint"] = ours
    trust = write_trust(tmp_path / "trust", signed.signer)
    assert "changed after signing" in signed.refusal(trust, json.dumps(bundle).encode())


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[[keys]]\nname = 'a'\nfile = 'nowhere.pem'", "No such file"),
        ("[[keys]]\nname = 'a'\nfile = '../a.pem'", "same folder"),
        ("[[keys]]\nname = 'a'\nfile = 'trust.toml'", "trust.toml"),
        ("[[keys]]\nname = 'a'\nfile = 'a.pem'\nnotafter = 3", "unknown field"),
        ("[[revoked]]\nartifact = 'everything'", "no address"),
        ("[[keys]", "trust.toml"),
        ("a." * 8000 + "a = 1", "line 1 has a key of more than 16 parts"),  # took 259 MB
        ("x = '\"'\n[[" + '"a\\"b" . ' * 20 + "a]]", "line 2 has a key"),
        ("#" * 300_000, "more than 262144 bytes"),
    ],
)
def test_a_trust_store_that_cannot_be_read_trusts_nobody(
    tmp_path: Path, text: str, told: str
) -> None:
    with pytest.raises(ArtifactRefused, match=r"trust\.toml"):
        Trust.load(tmp_path)
    (tmp_path / "trust.toml").write_text(text)
    with pytest.raises(ArtifactRefused, match=told):
        Trust.load(tmp_path)


def test_a_reason_may_have_dots(tmp_path: Path) -> None:
    address = digest.address("0" * 64)
    text = f'[[revoked]]\nartifact = \'{address}\'\nreason = "see \\"{"1.2.3..." * 9}\\""\n'
    (tmp_path / "trust.toml").write_text(text)
    assert Trust.load(tmp_path).revoked["0" * 64].endswith('1.2.3..."')


def test_keys_of_other_kinds_are_refused(signed: Signed, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    key = ec.generate_private_key(ec.SECP384R1())
    (tmp_path / "k").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    with pytest.raises(BadRequest, match="P-256"):
        signing.sign(signed.folder, signed.manifest, tmp_path / "k")
    with pytest.raises(BadRequest, match="can't be read"):
        signing.sign(signed.folder, signed.manifest, tmp_path / "none")
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    with pytest.raises(ValueError, match="P-256"):
        signature.read_key(public)
