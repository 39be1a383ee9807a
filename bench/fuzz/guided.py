"""python -m bench.fuzz.guided TARGET SECONDS SEED: one target, in a process of its own.

With atheris the inputs that reach new lines of ours are kept and mutated further, and libFuzzer
says on standard error how many there were; without it (it has no wheel for this Python) they are
mutated from the seeds. An input that breaks a property is one object of JSON on standard output.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any, NoReturn

try:
    import atheris as _atheris
except ImportError:
    _atheris = None  # type: ignore[assignment]
atheris: ModuleType | None = _atheris


def main(name: str, seconds: float, seed: int) -> NoReturn:
    if atheris is None:
        from bench.fuzz.targets import target
    else:
        with atheris.instrument_imports(include=["supervision", "actors", "tether"]):
            from bench.fuzz.targets import target

            target(name)  # what it reads with is imported here, and so is instrumented
    from bench.fuzz.target import Broken, Judge, changes, quiet

    quiet()
    found = target(name)
    judge = Judge(found)
    done = 0
    began = time.monotonic()

    def one(data: bytes) -> None:
        nonlocal done
        done += 1
        try:
            judge.judge(data)
        except Broken as broken:
            _end(3, inputs=done, broken=str(broken), input=data.hex())

    for given in found.seeds:
        one(given)
    if atheris is None:
        random = Random(seed)
        while time.monotonic() - began < seconds:
            one(changes(found, random))
        _end(0, inputs=done)

    def change(data: bytes, most: int, number: int) -> bytes:
        random = Random(number)
        try:
            if random.random() < 0.25:
                return bytes(_atheris.Mutate(data, most))
            return found.change(data, random)[:most]
        except Exception as error:  # libFuzzer would go on for ever without one
            _end(4, inputs=done, error=f"the mutator raised {error!r}", input=data.hex())

    with tempfile.TemporaryDirectory(prefix="fz") as folder:
        for number, given in enumerate(found.seeds):
            (Path(folder) / f"seed-{number}").write_bytes(given)
        flags = [f"-max_total_time={seconds:.0f}", f"-max_len={found.longest}", f"-seed={seed}"]
        flags += ["-rss_limit_mb=2048", "-timeout=20", f"-artifact_prefix={folder}/"]
        atheris.Setup([sys.argv[0], *flags, folder], one, custom_mutator=change)
        atheris.Fuzz()  # ends the process
    raise SystemExit(1)


def _end(status: int, **told: Any) -> NoReturn:
    print(json.dumps(told), flush=True)
    os._exit(status)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]))
