"""What of `scripts/prove fuzz` runs at every change: fixed seeds, some seconds a target."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.fuzz.targets import TARGETS

ROOT = Path(__file__).parents[2]
INPUTS = 4000  # of each target, the same ones at each run
SEED = 20
CODE = """
import json, sys
from random import Random
from bench.fuzz.target import Broken, Judge, changes, quiet
from bench.fuzz.targets import target
name, inputs, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
quiet()
found, random = target(name), Random(seed)
judge = Judge(found)
for data in (*found.seeds, *(changes(found, random) for _ in range(inputs))):
    try:
        judge.judge(data)
    except Broken as broken:
        sys.exit(json.dumps({"broken": str(broken), "input": data.hex()}))
"""


@pytest.mark.parametrize("name", TARGETS)
def test_what_comes_in_can_be_anything(name: str) -> None:
    """In a process of its own: the logs are quiet there, and memory is traced."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, name, str(INPUTS), str(SEED)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_judge_sees_what_it_looks_for() -> None:
    faults = """
import json, logging
from bench.fuzz.target import Broken, Judge, Target, quiet
from supervision.errors import ProtocolError
from supervision.telemetry import logs
quiet()
class Kept: ...
log = logs.get("x")
def read(data):
    if data == b"raise": raise KeyError("foreign")
    if data == b"grow": return bytes(1 << 20)
    if data == b"set": Kept.word = 1
    if data == b"swallow":
        try: {}["x"]
        except KeyError: log.exception("a handler failed")
    if data == b"ours": raise ProtocolError("no")
told = {}
for word in ("raise", "grow", "set", "swallow", "ours", "good"):
    target = Target(name="x", read=read, seeds=(), growth=100, slack=9000, classes=(Kept,))
    try: Judge(target).judge(word.encode())
    except Broken as broken: told[word] = str(broken)
print(json.dumps(told))
"""
    done = subprocess.run(
        [sys.executable, "-c", faults], cwd=ROOT, capture_output=True, text=True, check=True
    )
    told = json.loads(done.stdout)
    assert set(told) == {"raise", "grow", "set", "swallow"}
    assert "KeyError" in told["raise"]
    assert "may take 9400" in told["grow"]
    assert "Kept has changed" in told["set"]
    assert "a handler failed: KeyError" in told["swallow"]
