"""The script that verifies receipts, as the process of somebody else that it is."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from actors.core.receipt import receipt_of, spelled
from actors.core.sealing import leaf_of, seal, unpack_leaves
from tests.support.money import entry

SCRIPT = Path(__file__).parents[2] / "examples" / "verify_receipt.py"
SEALED_AT = "2026-12-01T00:00:00.000000Z"
JOB = "01900000-0000-7000-8000-000000000001"


def receipt() -> tuple[dict[str, Any], str]:
    """Of a job with three entries in two of three blocks; and the head."""
    entries = [entry(seq) for seq in range(1, 31)]
    entries[3] = entry(4, job_id=JOB, number=1, micros=500, key_id=None, note="grün")
    entries[4] = entry(5, job_id=JOB, number=2, kind="correction", micros=20)
    entries[15] = entry(16, job_id=JOB, number=3, kind="refund", micros=-120, made_by="ann")
    blocks, leaves = [], {}
    for first in (1, 11, 21):
        batch = [leaf_of(e) for e in entries[first - 1 : first + 9]]
        for block, packed in seal(
            blocks[-1] if blocks else None,
            batch,
            to_seq=first + 9,
            sealed_at="2026-12-01T00:00:00Z",
        ):
            blocks.append(block)
            leaves[block.number] = unpack_leaves(packed)
    mine = [e for e in entries if e.job_id == JOB]
    told = spelled(receipt_of(mine, leaves, blocks))
    return json.loads(json.dumps(told)), blocks[-1].hash


def says(receipt: object, head: str, tmp_path: Path) -> int:
    """What the script makes of it: 0 is yes."""
    done = subprocess.run(
        [sys.executable, "-I", SCRIPT, head],
        input=json.dumps(receipt).encode(),
        capture_output=True,
        check=False,
        cwd=tmp_path,
        timeout=60,
    )
    return done.returncode


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to each value that is no list or object."""
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*at, key))
    else:
        yield at


def changed(receipt: dict[str, Any], at: tuple[Any, ...]) -> dict[str, Any]:
    other = copy.deepcopy(receipt)
    within: Any = other
    for key in at[:-1]:
        within = within[key]
    value = within[at[-1]]
    if isinstance(value, int):
        within[at[-1]] = value + 1
    elif value:
        within[at[-1]] = value[:-1] + ("1" if value[-1] != "1" else "2")
    else:
        within[at[-1]] = "x"
    return other


def test_the_script_is_short_and_takes_nothing_of_ours() -> None:
    text = SCRIPT.read_text()
    assert len(text.splitlines()) <= 40
    imported = {
        line.split()[1] for line in text.splitlines() if line.split()[:1] in (["import"], ["from"])
    }
    assert imported <= sys.stdlib_module_names


def test_a_receipt_is_true_and_says_what_was_billed(tmp_path: Path) -> None:
    told, head = receipt()
    assert told["bill"]["micros"] == 400
    assert [e["block"] for e in told["entries"]] == [1, 1, 2]
    assert says(told, head, tmp_path) == 0
    assert says(told, "0" * 64, tmp_path) == 1
    assert says(told, told["blocks"][1]["hash"], tmp_path) == 1
    shorter = told | {"blocks": told["blocks"][:2]}
    assert says(shorter, told["blocks"][1]["hash"], tmp_path) == 0, "an older head will do"


def test_whatever_is_changed_it_says_no(tmp_path: Path) -> None:
    """Each field of it, one after the other; and each entry and block left out."""
    told, head = receipt()
    everywhere = list(places(told))
    assert len(everywhere) > 100
    wrong = {at: changed(told, at) for at in everywhere}
    for part in ("entries", "blocks"):
        for number in range(3):
            fewer = copy.deepcopy(told)
            del fewer[part][number]
            wrong[part, number] = fewer
    with ThreadPoolExecutor(4) as pool:
        said = dict(
            zip(wrong, pool.map(lambda r: says(r, head, tmp_path), wrong.values()), strict=True)
        )
    assert said == dict.fromkeys(wrong, 1)


def test_what_is_not_sealed_yet_is_not_true(tmp_path: Path) -> None:
    told = receipt_of([entry(1)], {}, [])
    assert says(spelled(told), "0" * 64, tmp_path) == 1
