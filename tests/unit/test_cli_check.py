"""`tether check`: the certificates that are here have to fit the configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervision.security.authority import Authority
from tether.cli.check import check
from tether.cli.failure import CommandFailed

TEXT = """
[node]
data_dir = "data/{node}"
identity_dir = "ca/nodes/{node}"
[stores]
postgres = "postgresql://u@db/t"
[[nodes]]
id = "n1"
host = "127.0.0.1"
leader = true
[[nodes]]
id = "n2"
host = "127.0.0.2"
roles = ["worker"]
[[models]]
name = "echo"
version = "1"
engine = "echo"
[[workers]]
id = "w"
models = ["*"]
"""


def test_a_certificate_that_lacks_a_role_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "cluster.toml"
    file.write_text(TEXT)
    assert check(file, "") == 0, "none is here"
    authority = Authority.init(tmp_path / "ca", "tether")
    authority.issue("n2", roles=["worker"])
    assert check(file, "") == 0
    authority.issue("n1", roles=["worker"])
    for node in ("n1", ""):
        with pytest.raises(CommandFailed, match="node n1 is to have the role"):
            check(file, node)
    assert check(file, "n2") == 0
    authority.renew("n1", roles=["door", "control", "worker"])
    assert check(file, "") == 0
    assert "is good" in capsys.readouterr().out
