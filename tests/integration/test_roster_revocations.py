"""Revocations count from the moment at which they are heard of, whatever can be written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from actors.contracts import Revocations, ShowCluster
from actors.core.node_roles import ROLES
from actors.roster import revocation_exchange
from supervision.errors import Forbidden, PeerLost
from supervision.security.authority import Authority
from supervision.security.identity import Identity
from supervision.telemetry import audit
from supervision.telemetry.audit import HOME
from tests.support.read_only import python_on_read_only
from tests.support.roster_nodes import rosters
from tests.support.waiting import PATIENCE_S, until

# A roster whose identity folder is read-only, as under the shipped unit, hears of a revocation.
READ_ONLY = """
import asyncio, errno, json, sys, time
from pathlib import Path
from actors.contracts import Revocations, ShowCluster
from supervision.errors import Forbidden, PeerLost
from supervision.security.files import write
from tests.support.roster_nodes import rosters
from tests.support.tls_hubs import pings
from tests.support.waiting import until

identity, folder = Path(sys.argv[1]), Path(sys.argv[2])

async def answered(hub, roster):
    try:
        await hub.ask(roster.address, ShowCluster(), 10)
    except Forbidden:
        return True  # it is for operators, and an answer all the same
    except PeerLost:
        return False
    raise AssertionError("another node is told of the cluster")

async def main():
    async with rosters(folder) as made:
        made.cluster.authority = type(made.cluster.authority).open(folder / "authority")
        one = await made.roster("n1", identity=identity)
        two, three = [await made.cluster.hub(node) for node in ("n2", "n3")]
        beside = await made.cluster.hub("n1", identity_dir=identity, kept=made.kept("n1"))
        assert await pings(two, beside)
        found = {"good before": await answered(two, one) and await answered(three, one)}
        try:
            write(identity / "crl.pem", b"")
        except OSError as error:
            found["read-only"] = error.errno == errno.EROFS
        made.cluster.authority.revoke("n2")
        list_ = (folder / "authority" / "crl.pem").read_bytes()
        lives = lambda hub: [c for c in hub.connections if c.vouched and c.vouched.node == "n2"]
        found["lived"] = bool(lives(one._hub) and lives(beside))
        three.tell(one.address, Revocations(pem=list_))
        await until(lambda: one._hub.border.identity.current.revocations.serials, 10)
        found["closed at once"] = all(c.transport.is_closing() for c in lives(one._hub))
        found["comes back"] = await answered(two, one)
        await until(lambda: not lives(beside), 10)  # another process of the node hears of it
    print(json.dumps(found))

asyncio.run(main())
"""


def test_a_revocation_counts_where_the_identity_is_read_only(tmp_path: Path):
    authority = Authority.init(tmp_path / "authority", "blue")
    identity = tmp_path / "identity"
    authority.issue("n1", to=identity, roles=ROLES)
    said = python_on_read_only(identity, READ_ONLY, str(tmp_path))
    found = json.loads(said.splitlines()[-1])
    assert found == {
        "good before": True,
        "read-only": True,
        "lived": True,
        "closed at once": True,
        "comes back": False,
    }
    # What it has kept is what its next start begins with.
    (two,) = (one for one in authority.listed() if one.node == "n2")
    again = Identity(identity, "n1", kept=tmp_path / "revoked-n1")
    again.load()
    assert int(two.serial, 16) in again.current.revocations.serials


def unkept() -> float:
    return REGISTRY.get_sample_value("tether_revocations_unkept") or 0.0


def taken_over(home: Path) -> list[audit.AuditEntry]:
    """Lines of the audit log on revocations; others tell who asked in vain."""
    path = home / audit.NAME
    lines = audit.read(path) if path.exists() else ()
    return [line for line in lines if line.command == revocation_exchange.COMMAND]


async def test_a_revocation_that_cannot_be_kept_counts_is_said_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
):
    monkeypatch.setattr(revocation_exchange, "RETRY_S", 0.1)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv(HOME, str(home))
    async with rosters(tmp_path) as made:
        elsewhere = tmp_path / "n1-identity"
        made.kept("n1").write_text("a file where the folder should be")  # root is stopped by it too
        one = await made.roster("n1", identity=elsewhere)
        two, three = [await made.cluster.hub(node) for node in ("n2", "n3")]
        with pytest.raises(Forbidden):  # it is for operators, and an answer all the same
            await two.ask(one.address, ShowCluster(), PATIENCE_S)
        authority = made.cluster.authority
        authority.revoke("n2")
        pem = (authority.folder / "crl.pem").read_bytes()
        three.tell(one.address, Revocations(pem=pem))
        border = one._hub.border
        assert border is not None
        await until(lambda: border.identity.current.revocations.serials)
        with pytest.raises(PeerLost):
            await two.ask(one.address, ShowCluster(), PATIENCE_S)
        await until(lambda: unkept() == 1)
        await until(lambda: len(taken_over(home)) == 1)
        said = capfd.readouterr()
        assert "can't be written down" in said.out + said.err

        made.kept("n1").unlink()
        await until((made.kept("n1") / "crl.pem").exists)
        await until(lambda: unkept() == 0)
        await until(lambda: len(taken_over(home)) == 2)
        first, last = taken_over(home)
        assert (first.command, first.arguments) == (
            revocation_exchange.COMMAND,
            (f"list {one.others.revocations.number}",),
        )
        assert (first.who.certificate, first.node) == ("n3", "n1")
        assert first.outcome.startswith("not written down: ")
        assert last.outcome == "done"
