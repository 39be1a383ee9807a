"""What nodes sign, and what is taken for signed."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import pytest

from actors.core.node_roles import ROLES
from supervision.security.authority import Authority
from supervision.security.identity import Identity
from supervision.security.refusal import CertificateRefused, Reason
from supervision.security.signature import Forged, Seal, Signed


def identity(authority: Authority, node: str, **issue: object) -> Identity:
    authority.issue(node, **{"roles": ROLES, **issue})  # type: ignore[arg-type]
    made = Identity(authority.folder_of(node), node)
    made.load()
    return made


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.init(tmp_path / "ca", "blue")


@pytest.fixture
def here(authority: Authority) -> Identity:
    return identity(authority, "n1")


@pytest.mark.parametrize("key", ["ed25519", "p256"])
def test_what_a_node_signed_is_its_own(authority: Authority, here: Identity, key: str):
    there = identity(authority, "n2", key=key)
    signed = Seal(there, "presence").sign(b"here I am")
    seal = Seal(here, "presence")
    for _ in range(2):
        assert seal.opened(signed).node == "n2"


def test_forgeries(authority: Authority, here: Identity):
    there = Seal(identity(authority, "n2"), "presence")
    other = Seal(identity(authority, "n3"), "presence")
    good, thief = there.sign(b"here I am"), other.sign(b"here I am")
    seal = Seal(here, "presence")
    for bad in (
        msgspec.structs.replace(good, payload=b"here I was"),
        msgspec.structs.replace(
            good, signature=good.signature[:-1] + bytes([good.signature[-1] ^ 1])
        ),
        msgspec.structs.replace(good, signature=b""),
        msgspec.structs.replace(good, certificate=thief.certificate),
        msgspec.structs.replace(good, certificate=b"\x30\x00"),
        msgspec.structs.replace(good, certificate=bytes(9000)),
        Seal(here, "control").sign(b"here I am"),  # for another purpose
    ):
        with pytest.raises(Forged):
            seal.opened(bad)


def test_who_is_not_believed(authority: Authority, here: Identity, tmp_path: Path):
    seal = Seal(here, "presence")
    foreign = identity(Authority.init(tmp_path / "other", "blue"), "n2")
    with pytest.raises(CertificateRefused) as refused:
        seal.opened(Seal(foreign, "presence").sign(b"x"))
    assert refused.value.reason is Reason.FOREIGN
    past = Authority.open(authority.folder, clock=lambda: time.time() - 7200)
    with pytest.raises(CertificateRefused) as refused:
        seal.opened(Seal(identity(past, "n2", lifetime_s=3600), "presence").sign(b"x"))
    assert refused.value.reason is Reason.EXPIRED
    signed = Seal(identity(authority, "n3"), "presence").sign(b"x")
    assert seal.opened(signed).node == "n3"
    authority.revoke("n3")
    here.load()
    with pytest.raises(CertificateRefused) as refused:
        seal.opened(signed)
    assert refused.value.reason is Reason.REVOKED


def test_an_authority_that_is_gone_vouches_no_longer(
    authority: Authority, here: Identity, tmp_path: Path
):
    new = Authority.init(tmp_path / "new", "blue")
    both = (authority.folder / "ca.pem").read_bytes() + (new.folder / "ca.pem").read_bytes()
    (here.folder / "ca.pem").write_bytes(both)
    here.load()
    seal = Seal(here, "presence")
    signed = Seal(identity(new, "n2"), "presence").sign(b"x")
    assert seal.opened(signed).node == "n2"
    (here.folder / "ca.pem").write_bytes((authority.folder / "ca.pem").read_bytes())
    here.load()
    with pytest.raises(CertificateRefused):
        seal.opened(signed)


def test_a_revocation_list_travels_by_any_road(authority: Authority, here: Identity):
    old = (here.folder / "crl.pem").read_bytes()
    made = authority.issue("n2", to=authority.folder.parent / "n2", roles=ROLES)
    authority.revoke("n2")
    new = (authority.folder / "crl.pem").read_bytes()
    (here.folder / "crl.pem").write_bytes(old)
    here.load()
    assert here.adopt(new)
    assert int(made.serial, 16) in here.current.revocations.serials
    assert not here.adopt(new)
    assert not here.adopt(old)
    assert here.current.revoked.pem == new
    assert (here.folder / "crl.pem").read_bytes() == old, "the folder isn't ours to write"
    for bad in (b"", b"nonsense", new.replace(b"M", b"N", 1)):
        with pytest.raises(ValueError):
            here.adopt(bad)


def test_an_older_list_does_not_replace_one_that_was_not_read_yet(
    authority: Authority, here: Identity
):
    authority.issue("n2", roles=ROLES)
    older = (authority.folder / "crl.pem").read_bytes()
    authority.revoke("n2")
    newer = (here.folder / "crl.pem").read_bytes()
    assert here.current.revocations.number < 3, "what was read is older than both"
    assert not here.adopt(older)
    assert (here.folder / "crl.pem").read_bytes() == newer
    (here.folder / "crl.pem").write_bytes(b"cut off")
    assert not here.adopt(newer), "it was read meanwhile"
    assert here.current.revoked.pem == newer


def test_a_signed_message_is_small(here: Identity):
    signed = Seal(here, "presence").sign(b"")
    assert len(msgspec.msgpack.encode(signed)) < 1024
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(signed), type=Signed) == signed
