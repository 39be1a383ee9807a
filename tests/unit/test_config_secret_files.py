"""Files that hold secrets, and that others may read."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.core.node_roles import ROLES
from supervision.security.authority import Authority
from tests.support.door_certificates import DoorAuthority
from tests.unit.test_config import SMALL
from tether.cli.check import check
from tether.cli.failure import CommandFailed
from tether.config import load
from tether.config.secret_files import open_files

SECRETS = """
[node]
identity_dir = "ca/nodes/n1"
[http.tls]
certificate = "door.crt"
key = "door.key"
[stores]
postgres = "postgresql://u:p@localhost/t?passfile=pass"
roles = true
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    Authority.init(tmp_path / "ca", "tether").issue("n1", roles=ROLES)
    for name in ("door.key", "pass", "cluster.toml"):
        (tmp_path / name).touch(0o600)
    DoorAuthority(tmp_path).renew()
    (tmp_path / "cluster.toml").write_text(SECRETS + SMALL)
    return tmp_path / "cluster.toml"


def told(path: Path) -> list[str]:
    return [str(problem) for problem in open_files(load(path, ""), path)]


def test_what_is_the_owner_s_alone_is_good(path: Path) -> None:
    assert told(path) == []
    path.chmod(0o640)  # the group's, which is the node's user's
    assert told(path) == []


@pytest.mark.parametrize(
    ("name", "mode", "what"),
    [
        ("cluster.toml", 0o644, "the secret in stores.postgres"),
        ("cluster.toml", 0o660, "the secret in stores.postgres"),
        ("pass", 0o640, "the database's password"),
        ("door.key", 0o604, "the key of http.tls"),
        ("ca/nodes/n1/node.pem", 0o644, "the key of the node"),
        ("ca/ca.key", 0o620, "the key of the cluster's authority"),
    ],
)
def test_what_others_may_read_is_one_sentence(
    path: Path, name: str, mode: int, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = path.parent / name
    file.chmod(mode)
    [sentence] = told(path)
    assert sentence.startswith(f"{file}: ") and what in sentence
    assert f"chmod {640 if name == 'cluster.toml' else 600} {file}" in sentence
    if name.endswith("node.pem"):  # the node wouldn't start with it
        with pytest.raises(CommandFailed, match=r"others may read .*node\.pem"):
            check(path, "")
        return
    assert check(path, "") == 0
    shown = capsys.readouterr()
    assert "is good" in shown.out and shown.err == f"warning: {sentence}\n"
    assert check(path, "", strict=True) == 1


def test_a_pair_that_does_not_match(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(path, "", strict=True) == 0
    authority = DoorAuthority(path.parent)
    authority.put(authority.pair()[0], authority.pair()[1])
    assert check(path, "", strict=True) == 1
    assert "the key is not that of the certificate" in capsys.readouterr().err


def test_a_configuration_without_secrets_may_be_read_by_all(path: Path) -> None:
    path.write_text(SMALL)
    path.chmod(0o644)
    assert told(path) == []
    assert check(path, "", strict=True) == 0
