"""Files that hold secrets, and who may read them."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervision.security.files import readable_by_others, write


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "node.pem"
    write(path, b"a key")
    return path


def test_what_we_write_is_private(secret: Path):
    assert readable_by_others(secret) is None


def test_a_file_that_is_not_there_is_no_problem_of_its_mode(tmp_path: Path):
    assert readable_by_others(tmp_path / "none") is None


@pytest.mark.parametrize(
    ("mode", "who", "may", "better"),
    [
        (0o644, "all users", "read", "600"),
        (0o640, "its group", "read", "600"),
        (0o660, "its group", "change", "600"),
        (0o602, "all users", "change", "600"),
        (0o444, "all users", "read", "400"),
    ],
)
def test_a_loose_mode_is_named_with_its_remedy(
    secret: Path, mode: int, who: str, may: str, better: str
):
    secret.chmod(mode)
    found = readable_by_others(secret, "the node's key")
    assert found is not None
    assert found.path == str(secret)
    assert found.sentence == (
        f"{who} may {may} this file (mode {mode:04o}), which holds the node's key; "
        f"run `chmod {better} {secret}`"
    )


def test_the_group_of_a_service_may_read_where_that_is_allowed(secret: Path):
    secret.chmod(0o640)
    assert readable_by_others(secret, group=True) is None
    for mode in (0o660, 0o644, 0o642):
        secret.chmod(mode)
        found = readable_by_others(secret, group=True)
        assert found is not None
        assert "chmod 640" in found.sentence
