"""The sandbox of an engine's process: which files it may read, which folder is its own.

An engine parses weights and prompts of strangers, in libraries that are large. It is given its
model, read-only, its own interpreter with the packages, and a folder for its caches; not the
node's key, configuration, data or sockets, and no network. See `supervision.security.confinement`
for the fences, and docs/adr/0029-least-right.md.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

import msgspec

from actors.contracts import ModelCard
from actors.core import engine_kinds
from supervision.security.confinement import Fences, confine
from supervision.security.landlock import Allowed
from supervision.telemetry import logs

Mode = Literal["required", "auto", "off"]
MOST_LINKS: Final = 10_000  # files of a model that are looked at
FOLDER: Final = "engines"  # below cache_dir
_SYSTEM: Final = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/opt/rocm")
_READ: Final = (
    "/proc",  # what of it tells of other processes is fenced by ptrace's rules
    "/sys",
    *(
        f"/etc/{name}"
        for name in (
            "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "timezone", "nsswitch.conf",
            "passwd", "group", "hosts", "host.conf", "gai.conf", "alternatives", "os-release",
            "ssl/openssl.cnf", "pki/tls/openssl.cnf", "crypto-policies", "mime.types",
        )
    ),
)  # fmt: skip
_DEVICES: Final = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
_GPUS: Final = ("nvidia*", "kfd", "dri", "nvidia-caps")
_SPLIT: Final = re.compile(r"^(.*)-\d{5}-of-\d{5}\.gguf$")

log = logs.get(__name__)


class EngineSandbox(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine's process may do beside being an interpreter: read `weights`, write below
    `cache`, which stays, and `temporary` ("": nowhere), use GPUs, listen on ports of the kernel's
    choice."""

    mode: Mode = "off"
    weights: tuple[str, ...] = ()
    cache: str = ""
    temporary: str = ""
    gpus: bool = False
    listens: bool = False


def sandbox_of(card: ModelCard, mode: Mode, cache_dir: Path, *, gpus: bool) -> EngineSandbox:
    """That of a process for `card`, whose source and adapter are paths. Makes its folders; who has
    ended it removes what is temporary with `tidy`."""
    kind = engine_kinds.find(card.engine)
    paths = [Path(path).expanduser() for path in (card.source, card.adapter) if path]
    cache, temporary = _folders(cache_dir, card.ref)
    return EngineSandbox(
        mode=mode,
        weights=tuple(dict.fromkeys(str(p) for path in paths for p in files_of(path))),
        cache=cache,
        temporary=temporary,
        gpus=gpus,
        listens=kind is not None and bool(kind.home),  # torch's gloo, in vLLM, for a group of one
    )


def files_of(path: Path) -> Iterator[Path]:
    """Where the files of a model really lie: links lead to other folders, and a split GGUF file
    has its other parts beside it."""
    yield path.resolve()
    if path.is_dir():
        for number, entry in enumerate(path.rglob("*")):
            if number >= MOST_LINKS:
                return
            if entry.is_symlink():
                yield entry.resolve()
    elif found := _SPLIT.match(path.name):
        for part in path.parent.glob(f"{found[1].replace('[', '[[]')}-*-of-*.gguf"):
            yield part.resolve()


def tidy(sandbox: EngineSandbox) -> None:
    """Remove what its process has left for the time that it ran."""
    if sandbox.temporary:
        shutil.rmtree(sandbox.temporary, ignore_errors=True)


def enter(sandbox: EngineSandbox) -> Fences:
    """Confine this process, and say what holds. Called while it has one thread."""
    if sandbox.mode == "off":
        return Fences()
    os.chdir(sandbox.temporary or "/")
    return confine(
        Allowed(
            read=(*_READ, *packages(), *sandbox.weights),
            run=(*_SYSTEM, *interpreter()),
            write=tuple(path for path in (sandbox.cache, sandbox.temporary) if path),
            devices=(*_DEVICES, *(gpu_devices() if sandbox.gpus else ())),
            listens=sandbox.listens,
        )
    )


def interpreter() -> tuple[str, ...]:
    """Where this Python lies, and the libraries that it was told of."""
    told = os.environ.get("LD_LIBRARY_PATH", "").split(":")
    prefixes = (sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix)
    return tuple(dict.fromkeys(path for path in (*prefixes, *told) if path not in ("", "/")))


def packages() -> tuple[str, ...]:
    """Where packages lie outside of it: ours by their folders, since a checkout may hold a node's
    data too."""
    ours = [str(Path(__file__).parents[1]), str(Path(logs.__file__).parents[1])]
    sites = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    return (*ours, *sites)


def gpu_devices() -> Iterator[str]:
    """Those of this machine."""
    for pattern in _GPUS:
        for path in Path("/dev").glob(pattern):
            yield str(path)


def _folders(cache_dir: Path, ref: str) -> tuple[str, str]:
    """The cache of all engines of this model, and a new folder for one process of it; those of
    workers that are gone go. "" if they can't be made: the engine does without."""
    above = cache_dir.absolute() / FOLDER / ref.replace("/", "_")
    try:
        cache = above / "cache"
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in above.iterdir():
            pid = left.name.partition("-")[0]
            if pid.isdecimal() and not Path(f"/proc/{pid}").exists():
                shutil.rmtree(left, ignore_errors=True)
        return str(cache), tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=above)
    except OSError as error:
        log.warning("an engine gets no folder of its own", model=ref, error=str(error))
        return "", ""
