"""What is installed is known to the byte: every pin has its hash, and everything is pinned."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = ("constraints.txt", "constraints-vllm.txt", "constraints-audit.txt")
ENTRY = re.compile(
    r"([A-Za-z0-9][\w.-]*)==([\w.]+(?:\+cpu)?)((?: \\\n    --hash=sha256:[0-9a-f]{64})+)"
)


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def entries(text: str) -> tuple[dict[str, str], dict[str, int]]:
    """Versions and numbers of hashes of a list of pins, which has nothing else but comments."""
    rest = ENTRY.sub("", text)
    assert not [line for line in rest.splitlines() if line and not line.startswith("#")], rest
    found = ENTRY.findall(text)
    # torch stands there twice: for processors, and as PyPI has it
    versions = {plain(name): version.removesuffix("+cpu") for name, version, _ in found}
    names = [(plain(name), "+cpu" in version) for name, version, _ in found]
    assert len(set(names)) == len(names)
    assert {name for name, cpu in names if cpu} <= {"torch"}
    return versions, {plain(name): hashes.count("--hash") for name, _, hashes in found}


@pytest.mark.parametrize("file", FILES)
def test_every_pin_has_a_hash(file: str) -> None:
    versions, _ = entries((ROOT / file).read_text())
    assert len(versions) > 20


def test_a_pin_without_a_hash_is_noticed() -> None:
    with pytest.raises(AssertionError):
        entries("a==1 \\\n    --hash=sha256:" + "0" * 64 + "\nb==2\n")


def test_what_the_project_asks_for_is_pinned_as_it_asks() -> None:
    versions, _ = entries((ROOT / "constraints.txt").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    asked = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    for name, needs in extras.items():
        if name not in {"vllm", "bench"}:  # an environment of its own, and a measurement
            asked += needs
    for need in asked:
        name, version = need.split("==")
        assert versions[plain(name)] == version, f"{need}: run scripts/pin"
