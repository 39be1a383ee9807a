"""The bill of materials: valid, and whole."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from cyclonedx.schema import OutputFormat, SchemaVersion
from cyclonedx.validation import make_schemabased_validator

from tests.unit.test_supply_chain import entries, plain

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("pins", ["constraints.txt", "constraints-vllm.txt"])
def test_the_bill_of_materials_has_every_package_and_its_hashes(pins: str) -> None:
    made = subprocess.run(
        [ROOT / "scripts" / "sbom", pins], capture_output=True, text=True, check=True, timeout=120
    )
    validator = make_schemabased_validator(OutputFormat.JSON, SchemaVersion.V1_6)
    assert validator.validate_str(made.stdout) is None
    bill = json.loads(made.stdout)
    assert bill["metadata"]["component"]["name"] == "tether"
    versions, hashes = entries((ROOT / pins).read_text())
    found = {plain(part["name"]): part for part in bill["components"]}
    assert found.keys() == versions.keys()
    for name, part in found.items():
        where, _, version = part["purl"].partition("@")
        assert plain(where.removeprefix("pkg:pypi/")) == name
        assert version.split("?")[0].split("%2B")[0].split("+")[0] == versions[name]
        told = [h for there in part["externalReferences"] for h in there["hashes"]]
        assert len(told) == hashes[name]
        assert {h["alg"] for h in told} == {"SHA-256"}
