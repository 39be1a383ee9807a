"""An authority in its folder: what it issues, renews, revokes, and refuses in a sentence."""

from __future__ import annotations

import stat
import threading
from pathlib import Path

import msgspec
import pytest
from cryptography import x509

from actors.core.node_roles import ROLES
from supervision.security.authority import DAY, Authority, AuthorityUnusable
from supervision.security.certificate import read_key, uris_of
from supervision.security.name import NodeName
from supervision.security.revocation import read_list

NOW = 1_800_000_000.0


class Clock:
    """Time that a test moves."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def authority(tmp_path: Path, clock: Clock) -> Authority:
    return Authority.init(tmp_path / "ca", "blue", clock=clock)


def certificate_in(folder: Path) -> x509.Certificate:
    (found,) = x509.load_pem_x509_certificates((folder / "node.pem").read_bytes())
    return found


def revoked_in(folder: Path) -> frozenset[int]:
    authorities = x509.load_pem_x509_certificates((folder / "ca.pem").read_bytes())
    return read_list((folder / "crl.pem").read_bytes(), authorities).serials


@pytest.mark.parametrize("kind", ["ed25519", "p256"])
def test_a_certificate_names_its_node_and_lives_for_a_day(tmp_path: Path, clock: Clock, kind: str):
    authority = Authority.init(tmp_path / "ca", "blue", key=kind, clock=clock)  # type: ignore[arg-type]
    made = authority.issue("n1", key=kind, roles=ROLES)  # type: ignore[arg-type]
    found = certificate_in(authority.folder_of("n1"))
    roles = "tether://blue/roles/control,door,worker"
    assert uris_of(found) == ["tether://blue/node/n1", roles]
    assert made.roles == ("control", "door", "worker")
    assert found.not_valid_after_utc.timestamp() == made.ends_at == NOW + DAY
    assert found.not_valid_before_utc.timestamp() == NOW - 300
    assert found.serial_number == int(made.serial, 16)
    signer = x509.load_pem_x509_certificate((tmp_path / "ca" / "ca.pem").read_bytes())
    found.verify_directly_issued_by(signer)
    key = read_key((authority.folder_of("n1") / "node.pem").read_bytes())
    assert key.public_key() == found.public_key()


def test_all_files_are_their_owners_only(authority: Authority):
    authority.issue("n1", roles=ROLES)
    files = [path for path in authority.folder.rglob("*") if path.is_file()]
    assert {path.name for path in files} == {
        "ca.key", "ca.pem", "crl.pem", "ledger.json", "node.pem",
    }  # fmt: skip
    for path in files:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert stat.S_IMODE(authority.folder.stat().st_mode) == 0o700


def test_the_authoritys_key_stays_at_home(authority: Authority, tmp_path: Path):
    authority.issue("n1", to=tmp_path / "elsewhere", roles=ROLES)
    authority.renew("n1", to=tmp_path / "elsewhere")
    secret = (authority.folder / "ca.key").read_bytes()
    others = [
        path
        for path in tmp_path.rglob("*")
        if path.is_file() and path != authority.folder / "ca.key"
    ]
    assert len(others) >= 6
    assert not any(secret in path.read_bytes() for path in others)


def test_a_renewal_has_a_new_key_and_the_same_lifetime(authority: Authority, clock: Clock):
    authority.issue("n1", lifetime_s=3600, key="p256", roles=ROLES)
    before = certificate_in(authority.folder_of("n1"))
    clock.now += 3000
    made = authority.renew("n1")
    after = certificate_in(authority.folder_of("n1"))
    assert after.public_key() != before.public_key()
    assert made.ends_at == clock.now + 3600
    assert made.key == "p256"
    assert [one.state(clock.now + 1000) for one in authority.listed()] == ["expired", "good"]


def test_a_certificate_ends_with_its_authority(tmp_path: Path, clock: Clock):
    authority = Authority.init(tmp_path / "ca", "blue", lifetime_s=3600, clock=clock)
    assert authority.issue("n1", roles=ROLES).ends_at == NOW + 3600


def test_revoking_a_node_takes_all_that_live(authority: Authority, clock: Clock):
    old = authority.issue("n1", lifetime_s=60, roles=ROLES)
    clock.now += 100
    first, other, second = (
        authority.issue("n1", roles=ROLES),
        authority.issue("n2", roles=ROLES),
        authority.renew("n1"),
    )
    assert {one.serial for one in authority.revoke("n1")} == {first.serial, second.serial}
    serials = {int(first.serial, 16), int(second.serial, 16)}
    for folder in (authority.folder, authority.folder_of("n1"), authority.folder_of("n2")):
        assert revoked_in(folder) == serials
    states = {one.serial: one.state(clock.now) for one in authority.listed()}
    assert states == {
        old.serial: "expired",
        first.serial: "revoked",
        other.serial: "good",
        second.serial: "revoked",
    }
    assert authority.revoke("n1") == ()
    with pytest.raises(AuthorityUnusable, match="revoked"):
        authority.renew("n1")
    authority.issue("n1", roles=ROLES)


def test_one_certificate_is_revoked_by_its_serial(authority: Authority):
    first, second = authority.issue("n1", roles=ROLES), authority.issue("n1", roles=ROLES)
    colons = ":".join(first.serial.zfill(40)[i : i + 2] for i in range(0, 40, 2)).upper()
    assert authority.revoke(colons) == (authority.listed()[0],)
    assert revoked_in(authority.folder) == {int(first.serial, 16)}
    assert authority.listed()[1] == second


def test_the_list_is_numbered_upwards_and_old_entries_are_forgotten(
    authority: Authority, clock: Clock
):
    authority.issue("n1", roles=ROLES)
    authority.revoke("n1")
    signers = x509.load_pem_x509_certificates((authority.folder / "ca.pem").read_bytes())
    first = read_list((authority.folder / "crl.pem").read_bytes(), signers)
    clock.now += 40 * DAY
    authority.issue("n2", roles=ROLES)
    second = read_list((authority.folder / "crl.pem").read_bytes(), signers)
    assert second.number > first.number
    assert len(first.serials) == 1
    assert not second.serials  # what has ended needs no revocation
    assert [one.node for one in authority.listed()] == ["n2"]


def test_a_list_of_another_authority_is_refused(authority: Authority, tmp_path: Path):
    other = Authority.init(tmp_path / "other", "blue")
    signers = x509.load_pem_x509_certificates((authority.folder / "ca.pem").read_bytes())
    with pytest.raises(ValueError, match="no authority"):
        read_list((other.folder / "crl.pem").read_bytes(), signers)


def test_two_commands_at_once_lose_nothing(authority: Authority):
    def work(name: str) -> None:
        for _ in range(5):
            Authority.open(authority.folder, clock=lambda: NOW).issue(name, roles=ROLES)

    threads = [threading.Thread(target=work, args=(f"n{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(authority.listed()) == 20


def test_what_cannot_be_done_is_said_in_a_sentence(authority: Authority, tmp_path: Path):
    with pytest.raises(AuthorityUnusable, match="already"):
        Authority.init(authority.folder, "blue")
    with pytest.raises(AuthorityUnusable, match="tether ca init"):
        Authority.open(tmp_path / "nowhere")
    with pytest.raises(AuthorityUnusable, match="tether ca issue n9"):
        authority.renew("n9")
    with pytest.raises(AuthorityUnusable, match="tether ca list"):
        authority.revoke("n9")
    for name in ("", "a/b", "-x", "x" * 64, "n\n1"):
        with pytest.raises(ValueError, match="no name"):
            authority.issue(name, roles=ROLES)
    with pytest.raises(ValueError, match="live"):
        authority.issue("n1", lifetime_s=0, roles=ROLES)
    (authority.folder / "ledger.json").write_text("{")
    with pytest.raises(AuthorityUnusable, match="ledger"):
        authority.listed()
    (authority.folder / "ca.pem").write_text("nonsense")
    with pytest.raises(AuthorityUnusable, match="can't be used"):
        Authority.open(authority.folder)


def test_a_folder_of_a_node_is_no_authority(authority: Authority):
    authority.issue("n1", roles=ROLES)
    with pytest.raises(AuthorityUnusable, match=r"ca\.key"):
        Authority.open(authority.folder_of("n1"))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_key_that_others_may_read_is_refused(authority: Authority, mode: int):
    (authority.folder / "ca.key").chmod(mode)
    with pytest.raises(AuthorityUnusable, match=r"ca\.key, .*; chmod 600 it"):
        Authority.open(authority.folder)
    (authority.folder / "ca.key").chmod(0o600)
    Authority.open(authority.folder)


def test_only_one_node_uri_is_a_name():
    assert NodeName.of(["tether://blue/node/n1", "https://x"]) == NodeName("blue", "n1")
    for uris in (
        [],
        ["tether://blue/node/n1", "tether://blue/node/n2"],
        ["tether://blue/node/n1/x"],
        ["tether://blue/authority"],
        ["tether://blue/node/n1\n"],
    ):
        assert NodeName.of(uris) is None


def test_operators_have_names_of_their_own():
    name = NodeName("blue", "operator:alice")
    assert name.uri == "tether://blue/operator/alice"
    assert NodeName.of([name.uri]) == name
    for wrong in ("operator:", "operator:a b", "nobody:alice", "operator:operator:alice"):
        with pytest.raises(ValueError):
            NodeName("blue", wrong)
    for uri in ("tether://blue/node/operator:alice", "tether://blue/admin/alice"):
        assert NodeName.of([uri]) is None


def test_roles_are_kept_by_a_renewal_and_can_be_changed(authority: Authority):
    authority.issue("n1", roles=("worker", "control", "worker"))
    assert authority.renew("n1").roles == ("control", "worker")
    assert authority.renew("n1", roles=["worker"]).roles == ("worker",)
    assert authority.renew("n1").roles == ("worker",)
    assert uris_of(certificate_in(authority.folder_of("n1")))[1] == "tether://blue/roles/worker"
    assert [one.roles for one in authority.listed()][-1] == ("worker",)


def test_a_certificate_of_an_earlier_release_is_renewed_with_roles(authority: Authority):
    authority.issue("n1", roles=ROLES)
    ledger = authority.folder / "ledger.json"
    before = msgspec.json.decode(ledger.read_bytes())
    for one in before["issued"]:
        del one["roles"]
    ledger.write_bytes(msgspec.json.encode(before))
    with pytest.raises(AuthorityUnusable, match="`tether ca renew n1 --roles ROLE"):
        authority.renew("n1")
    assert authority.renew("n1", roles=["door"]).roles == ("door",)


@pytest.mark.parametrize(
    ("node", "roles", "why"),
    [
        ("n1", (), "needs roles"),
        ("n1", ("Worker",), "is no role"),
        ("n1", ("a,b",), "is no role"),
        ("n1", tuple(f"r{n}" for n in range(9)), "8 roles at most"),
        ("operator:ann", ("worker",), "is an operator"),
    ],
)
def test_which_roles_cannot_be_given(
    authority: Authority, node: str, roles: tuple[str, ...], why: str
):
    with pytest.raises(ValueError, match=why):
        authority.issue(node, roles=roles)
    assert not authority.listed()
