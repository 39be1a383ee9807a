"""python -m bench.fuzz [MINUTES] [TARGET…] [--seed N] [--input HEX TARGET]

Each target for an equal part of the time, in a process of its own. Exit status 0 if every property
held; else the inputs that broke one are printed, with the command that repeats each.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.fuzz.target import Broken, Judge, quiet
from bench.fuzz.targets import TARGETS, target

MOST_SHOWN = 4096  # hex digits


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/prove fuzz")
    parser.add_argument("minutes", nargs="?", type=float, default=10.0)
    parser.add_argument("names", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**31 - 1) + 1)
    parser.add_argument("--input", metavar="HEX", help="this one (or @FILE) alone, for one TARGET")
    args = parser.parse_args()
    names = args.names or list(TARGETS)
    if unknown := [name for name in names if name not in TARGETS]:
        parser.error(f"there is no target {unknown[0]!r}; there are {', '.join(TARGETS)}")
    if args.input is not None:
        return repeat(names[0], given(args.input))
    seconds = args.minutes * 60 / len(names)
    print(f"{len(names)} targets, {seconds:.0f} s each, seed {args.seed}", flush=True)
    return max(fuzz(name, seconds, args.seed) for name in names)


def given(text: str) -> bytes:
    return Path(text[1:]).read_bytes() if text.startswith("@") else bytes.fromhex(text)


def repeat(name: str, data: bytes) -> int:
    quiet()
    try:
        Judge(target(name)).judge(data)
    except Broken as broken:
        print(f"{name}: {broken}")
        return 1
    print(f"{name}: every property held for {len(data)} bytes")
    return 0


def fuzz(name: str, seconds: float, seed: int) -> int:
    command = [sys.executable, "-m", "bench.fuzz.guided", name, f"{seconds:.1f}", str(seed)]
    # what it leaves behind goes with the folder, for libFuzzer ends a process without a farewell
    with tempfile.TemporaryDirectory(prefix="fz") as folder:
        try:
            done = subprocess.run(
                command, env=os.environ | {"TMPDIR": folder}, capture_output=True, text=True,
                check=False, timeout=seconds * 2 + 120,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            print(f"{name:20} HUNG: it wasn't done after {seconds * 2 + 120:.0f} s", flush=True)
            return 1
    told: dict[str, Any] = {}
    if lines := [line for line in done.stdout.splitlines() if line.startswith("{")]:
        told = json.loads(lines[-1])
    if runs := re.findall(r"^Done (\d+) runs", done.stderr, re.MULTILINE):
        told.setdefault("inputs", int(runs[-1]))
    reached = re.findall(r"cov: (\d+)", done.stderr)
    how = f"{reached[-1]} branches reached" if reached else "not guided"
    print(f"{name:20} {told.get('inputs', 0):9,} inputs  {how}  ", end="")
    if done.returncode == 0 and told:
        print("held", flush=True)
        return 0
    if "broken" in told:
        print(f"BROKEN: {told['broken']}")
        print(f"    scripts/prove fuzz 1 {name!r} --input {_shown(told['input'])}", flush=True)
    else:
        print(f"ENDED with status {done.returncode} {told}\n{done.stderr[-2000:]}", flush=True)
    return 1


def _shown(found: str) -> str:
    """As `--input` takes it; what is too long for a command line is in a file, which stays."""
    if len(found) <= MOST_SHOWN:
        return found
    with tempfile.NamedTemporaryFile(prefix="fuzz-", suffix=".input", delete=False) as file:
        file.write(bytes.fromhex(found))
    return f"@{file.name}"


if __name__ == "__main__":
    sys.exit(main())
