"""`tether ca`: what it prints, what it leaves behind, and how it fails."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from supervision.security.identity import Identity, IdentityUnusable
from tether.cli import app


class Command:
    """Runs `tether ca …` in a folder of its own."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *words: str, code: int = 0) -> str:
        assert app._guarded(["ca", *words]) == code
        told = self._capsys.readouterr()
        return told.err if code else told.out


@pytest.fixture
def ca(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TETHER_DEBUG", raising=False)
    return Command(capsys)


def test_a_life_of_a_certificate(ca: Command):
    assert "cluster blue" in ca("init", "--cluster", "blue")
    assert "ca/nodes/n1" in ca("issue", "n1")
    identity = Identity(Path("ca/nodes/n1"), "n1")
    identity.load()
    assert identity.current.name.uri == "tether://blue/node/n1"
    first = identity.current.serial
    assert f"{first:x}" in ca("list")
    assert "elsewhere" in ca("renew", "n1", "--to", "elsewhere", "--hours", "1")
    renewed = Identity(Path("elsewhere"), "n1")
    renewed.load()
    assert renewed.current.ends_at < identity.current.ends_at - 3600 * 20
    assert f"revoked {first:x} of n1" in ca("revoke", f"{first:x}")
    assert "revoked already" in ca("revoke", f"{first:x}")
    identity.load()
    assert identity.current.revocations.serials == {first}
    rows = [json.loads(line) for line in ca("list", "--json").splitlines()]
    assert [(row["node"], row["state"]) for row in rows] == [("n1", "revoked"), ("n1", "good")]


def test_roles_are_given_shown_kept_and_changed(ca: Command):
    ca("init")
    assert "(control, door, worker)" in ca("issue", "n1")
    assert "(worker)" in ca("issue", "n2", "--roles", "worker")
    assert "(door, worker)" in ca("renew", "n2", "--roles", "worker,door")
    assert "(door, worker)" in ca("renew", "n2")
    assert "(" not in ca("issue", "operator:ann")
    assert "door,worker" in ca("list")
    rows = [json.loads(line) for line in ca("list", "--json").splitlines()]
    assert [row["roles"] for row in rows if row["node"] == "n2"] == [
        ["worker"], ["door", "worker"], ["door", "worker"],
    ]  # fmt: skip


def test_kinds_of_keys(ca: Command):
    ca("init", "other", "--key", "p256", "--days", "1")
    ca("issue", "n1", "--ca", "other", "--key", "p256", "--hours", "48")
    (row,) = [json.loads(line) for line in ca("list", "--ca", "other", "--json").splitlines()]
    assert row["key"] == "p256"
    assert row["ends_at"] - row["begins_at"] <= 86400  # no longer than its authority
    with pytest.raises(IdentityUnusable):
        Identity(Path("other"), "n1").load()


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("issue", "n2", "--ca", "nowhere"), 1, "tether ca init nowhere"),
        (("init",), 1, "already"),
        (("init", "new", "--cluster", "no name"), 1, "no name of a cluster"),
        (("issue", "a/b"), 1, "no name"),
        (("issue", "n2", "--hours", "0"), 1, "can't live"),
        (("renew", "n2"), 1, "tether ca issue n2"),
        (("issue", "n2", "--roles", "gateway"), 1, "one or several of door,control,worker"),
        (("issue", "operator:ann", "--roles", "worker"), 1, "is an operator"),
        (("revoke", "n2"), 1, "tether ca list"),
        (("issue",), 2, "--help"),
        (("issue", "n2", "--key", "rsa"), 2, "--help"),
    ],
)
def test_what_goes_wrong_is_one_sentence(ca: Command, words: tuple[str, ...], code: int, told: str):
    ca("init")
    said = ca(*words, code=code)
    assert told in said
    assert len(said.splitlines()) == 1
    assert "Traceback" not in said
