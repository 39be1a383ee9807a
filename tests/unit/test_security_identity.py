"""A node's identity: what it takes from its folder, and whom it believes."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest

from actors.core.node_roles import ROLES
from supervision.security.authority import DAY, Authority
from supervision.security.identity import Identity, IdentityUnusable
from supervision.security.refusal import CertificateRefused, Reason

URI = "tether://blue/node/n2"
WORKS = "tether://blue/roles/worker"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    made = Authority.init(tmp_path / "ca", "blue")
    made.issue("n1", roles=ROLES)
    return made


@pytest.fixture
def identity(authority: Authority) -> Identity:
    made = Identity(authority.folder_of("n1"), "n1")
    made.load()
    return made


def shown(
    uri: str = URI, roles: str = WORKS, serial: int = 7, ends: str = "Jan  1 00:00:00 2100 GMT"
) -> Any:
    """A certificate in the form of `SSLSocket.getpeercert()`."""
    names = (("URI", uri), ("URI", roles))
    return {"subjectAltName": names, "serialNumber": f"{serial:X}", "notAfter": ends}


def refusal(identity: Identity, certificate: Any) -> Reason:
    with pytest.raises(CertificateRefused) as refused:
        identity.vouch(certificate)
    return refused.value.reason


def test_whom_it_believes(identity: Identity):
    vouched = identity.vouch(shown())
    assert (vouched.node, vouched.serial) == ("n2", 7)
    assert vouched.ends_at == ssl.cert_time_to_seconds("Jan  1 00:00:00 2100 GMT")


def test_whom_it_does_not_believe(identity: Identity):
    assert refusal(identity, None) is Reason.ABSENT
    assert refusal(identity, {}) is Reason.ABSENT
    assert refusal(identity, shown("https://example.org")) is Reason.FOREIGN
    assert refusal(identity, shown("tether://red/node/n2")) is Reason.FOREIGN
    assert refusal(identity, shown(ends="Jan  1 00:00:00 2020 GMT")) is Reason.EXPIRED
    both = shown()
    both["subjectAltName"] = (("URI", URI), ("URI", WORKS), ("URI", "tether://blue/node/n3"))
    assert refusal(identity, both) is Reason.FOREIGN


def test_roles_are_what_the_certificate_says(identity: Identity):
    assert identity.vouch(shown()).roles == ("worker",)
    both = shown(roles="tether://blue/roles/control,door")
    assert identity.vouch(both).roles == ("control", "door")
    operator = shown("tether://blue/operator/ann", roles="https://example.org")
    assert identity.vouch(operator).roles == ()
    assert identity.current.roles == ("control", "door", "worker")


@pytest.mark.parametrize(
    "roles",
    [
        "https://example.org",
        "tether://red/roles/worker",
        "tether://blue/roles/",
        "tether://blue/roles/door,control",
        "tether://blue/roles/door,door",
        "tether://blue/roles/Worker",
        "tether://blue/roles/worker\n",
        "tether://blue/roles/worker,",
        "tether://blue/roles/*",
        f"tether://blue/roles/{','.join(f'r{n}' for n in range(9))}",
    ],
)
def test_who_says_no_roles_is_told_how_to_get_some(identity: Identity, roles: str):
    with pytest.raises(CertificateRefused, match="`tether ca renew n2 --roles ROLE,") as refused:
        identity.vouch(shown(roles=roles))
    assert refused.value.reason is Reason.ROLELESS


def test_roles_that_are_said_twice_are_none(identity: Identity):
    twice = shown()
    twice["subjectAltName"] += (("URI", "tether://blue/roles/control"),)
    assert refusal(identity, twice) is Reason.ROLELESS


def test_a_revocation_is_seen(authority: Authority, identity: Identity):
    made = authority.issue("n2", roles=ROLES)
    certificate = shown(serial=int(made.serial, 16))
    vouched = identity.vouch(certificate)
    assert authority.revoke("n2")
    assert identity.changed()
    identity.load()
    assert not identity.changed()
    assert refusal(identity, certificate) is Reason.REVOKED
    with pytest.raises(CertificateRefused):
        identity.still_good(vouched)


def test_an_old_list_takes_no_revocation_back(authority: Authority, identity: Identity):
    made = authority.issue("n2", roles=ROLES)
    path = authority.folder_of("n1") / "crl.pem"
    before = path.read_bytes()
    authority.revoke("n2")
    identity.load()
    path.write_bytes(before)
    identity.load()
    assert int(made.serial, 16) in identity.current.revocations.serials
    path.unlink()
    identity.load()
    assert int(made.serial, 16) in identity.current.revocations.serials


def test_a_renewal_is_taken_over(authority: Authority, identity: Identity):
    before = identity.current
    made = authority.renew("n1")
    assert identity.changed()
    identity.load()
    assert identity.current.serial == int(made.serial, 16) != before.serial
    assert identity.current.server is not before.server
    assert identity.current.ends_at == made.ends_at


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("node.pem", b""),
        ("node.pem", b"-----BEGIN CERTIFICATE-----\nxx\n-----END CERTIFICATE-----\n"),
        ("ca.pem", b"nothing"),
        ("crl.pem", b"nothing"),
        ("node.pem", None),
        ("ca.pem", None),
    ],
)
def test_broken_files_leave_what_was_good(
    authority: Authority, identity: Identity, name: str, content: bytes | None
):
    before = identity.current
    path = authority.folder_of("n1") / name
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    assert identity.changed()
    with pytest.raises(IdentityUnusable):
        identity.load()
    assert identity.current is before
    assert not identity.changed()  # said once
    fresh = Identity(authority.folder_of("n1"), "n1")
    with pytest.raises(IdentityUnusable):
        fresh.load()
    with pytest.raises(IdentityUnusable):
        _ = fresh.current


def test_the_identity_of_another_node_is_refused(authority: Authority):
    with pytest.raises(IdentityUnusable, match="this is node n2"):
        Identity(authority.folder_of("n1"), "n2").load()


def test_a_key_that_others_may_read_is_refused(authority: Authority):
    (authority.folder_of("n1") / "node.pem").chmod(0o640)
    with pytest.raises(IdentityUnusable, match="chmod 600"):
        Identity(authority.folder_of("n1"), "n1").load()


def test_a_key_without_its_certificate_is_refused(authority: Authority, identity: Identity):
    path = authority.folder_of("n1") / "node.pem"
    key = path.read_bytes().split(b"-----BEGIN CERTIFICATE-----")[0]
    authority.renew("n1")
    certificate = path.read_bytes().partition(b"-----BEGIN CERTIFICATE-----")
    path.write_bytes(key + certificate[1] + certificate[2])
    with pytest.raises(IdentityUnusable, match="can't be used"):
        identity.load()


def test_the_end_of_an_own_certificate_is_known(authority: Authority, identity: Identity):
    (one,) = authority.listed()
    assert identity.current.ends_at == one.ends_at
    assert one.ends_at - one.begins_at == DAY


def test_what_is_heard_counts_before_it_is_written(authority: Authority, tmp_path: Path):
    made = authority.issue("n2", roles=ROLES)
    elsewhere = tmp_path / "n1"
    authority.issue("n1", to=elsewhere, roles=ROLES)
    kept = tmp_path / "kept"
    kept.write_text("a file where the folder should be")
    identity = Identity(elsewhere, "n1", kept=kept)
    identity.load()
    told: list[None] = []
    identity.on_revoked = lambda: told.append(None)
    authority.revoke("n2")
    pem = (authority.folder / "crl.pem").read_bytes()
    assert identity.adopt(pem)
    assert not identity.adopt(pem)
    assert refusal(identity, shown(serial=int(made.serial, 16))) is Reason.REVOKED
    assert len(told) == 1
    with pytest.raises(OSError, match=r"exists|directory"):
        identity.keep()
    identity.load()  # which reads an older list, from the identity's folder
    assert refusal(identity, shown(serial=int(made.serial, 16))) is Reason.REVOKED
    kept.unlink()
    assert identity.keep()
    assert not identity.keep()
    assert (kept / "crl.pem").read_bytes() == pem
    assert (kept / "crl.pem").stat().st_mode & 0o777 == 0o600


def test_the_newest_good_list_of_both_folders_counts(authority: Authority, tmp_path: Path):
    made = authority.issue("n2", roles=ROLES)
    elsewhere, kept = tmp_path / "n1", tmp_path / "kept"
    authority.issue("n1", to=elsewhere, roles=ROLES)
    kept.mkdir()
    older = (authority.folder / "crl.pem").read_bytes()
    authority.revoke("n2")
    newer = (authority.folder / "crl.pem").read_bytes()
    foreign = Authority.init(tmp_path / "red", "blue")
    for _ in range(9):
        foreign.issue("n1", roles=ROLES)
    forged = (foreign.folder / "crl.pem").read_bytes()
    for given, own in ((older, newer), (newer, older), (newer, forged), (newer, b"nothing")):
        (elsewhere / "crl.pem").write_bytes(given)
        (kept / "crl.pem").write_bytes(own)
        identity = Identity(elsewhere, "n1", kept=kept)
        identity.load()
        assert int(made.serial, 16) in identity.current.revocations.serials
        assert identity.current.revoked.pem == newer


def test_a_revocation_does_not_wait_for_a_folder_that_is_half_copied(
    authority: Authority, tmp_path: Path
):
    made = authority.issue("n2", roles=ROLES)
    elsewhere, kept = tmp_path / "n1", tmp_path / "kept"
    authority.issue("n1", to=elsewhere, roles=ROLES)
    identity = Identity(elsewhere, "n1", kept=kept)
    identity.load()
    (elsewhere / "node.pem").write_bytes(b"")
    authority.revoke("n2")
    kept.mkdir()
    (kept / "crl.pem").write_bytes((authority.folder / "crl.pem").read_bytes())
    assert identity.changed()
    with pytest.raises(IdentityUnusable):
        identity.load()
    assert refusal(identity, shown(serial=int(made.serial, 16))) is Reason.REVOKED
