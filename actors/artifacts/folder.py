"""The manifest of a folder, and the checks of every folder that is packed or was unpacked."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from actors.artifacts import digest, filename
from actors.artifacts.manifest import BLOCK, File, Manifest, make
from actors.errors import ArtifactRefused

Told = Callable[[int], None]  # so many more bytes are done

_MAX_JSON: Final = 64 << 20
_MAX_HEADER: Final = 100 << 20  # safetensors' own bound
_REMOTE_CODE: Final = ("auto_map", "custom_pipelines")


def scan(folder: Path, *, told: Told | None = None) -> Manifest:
    """The manifest of all files in `folder`. Reads them once; blocks.

    Raises:
        ArtifactRefused: it holds something that no artifact may; the sentence names it.
        OSError: it can't be read.
    """
    names = sorted(listed(folder))
    for name in names:
        if reason := filename.fault(name):
            raise ArtifactRefused(f"{folder / name} {reason}")
    if reason := filename.clash(names):
        raise ArtifactRefused(f"{folder}: {reason}")
    files = [_file(folder, name, told or (lambda done: None)) for name in names]
    inspect(folder, names)
    return make(files)


def listed(folder: Path) -> Iterator[str]:
    """The names of all files below `folder`, with `/`.

    Raises:
        ArtifactRefused: it is no folder, or holds a link or a device.
    """
    if folder.is_symlink() or not folder.is_dir():
        raise ArtifactRefused(f"{folder} is no folder")
    pending = [folder]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                path = Path(entry.path)
                if entry.is_symlink():
                    raise ArtifactRefused(
                        f"{path} is a symbolic link; an artifact holds plain files only"
                    )
                if entry.is_dir(follow_symlinks=False):
                    if entry.name.startswith("."):
                        raise ArtifactRefused(f"{path} is hidden")
                    pending.append(path)
                elif entry.is_file(follow_symlinks=False):
                    yield path.relative_to(folder).as_posix()
                else:
                    raise ArtifactRefused(f"{path} is no plain file")


def inspect(folder: Path, names: list[str]) -> None:
    """What the names don't show: code by way of a JSON file, weights that are none.

    Raises:
        ArtifactRefused: the first that is wrong.
    """
    for name in names:
        path = folder / name
        if name.endswith(".json"):
            _inspect_json(path)
        elif name.endswith(".safetensors"):
            _inspect_safetensors(path)
        elif name.endswith(".gguf"):
            with path.open("rb") as file:
                if file.read(4) != b"GGUF":
                    raise ArtifactRefused(f"{path} is no GGUF file")
    if not any(name.endswith((".safetensors", ".gguf")) for name in names):
        raise ArtifactRefused(f"{folder} holds no weights: no safetensors and no GGUF file")


def open_plain(path: Path) -> int:
    """A descriptor for reading `path`, which must be a plain file and no link.

    Raises:
        ArtifactRefused: it is something else.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ArtifactRefused(f"{path} can't be read: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ArtifactRefused(f"{path} is no plain file")
    return descriptor


def _file(folder: Path, name: str, told: Told) -> File:
    whole = hashlib.sha256()
    blocks: list[str] = []
    size = 0
    buffer = bytearray(BLOCK)
    with os.fdopen(open_plain(folder / name), "rb", buffering=0) as file:
        while read := read_block(file.fileno(), buffer):
            part = memoryview(buffer)[:read]
            blocks.append(digest.of(part))
            whole.update(part)
            size += read
            told(read)
    if not size:
        raise ArtifactRefused(f"{folder / name} is empty; remove it")
    return File(name, size, filename.media_type(name), whole.hexdigest(), tuple(blocks))


def read_block(descriptor: int, buffer: bytearray) -> int:
    """Fills `buffer` from where `descriptor` stands; fewer bytes at the end of the file only."""
    view = memoryview(buffer)
    filled = 0
    while filled < len(buffer):
        read = os.readv(descriptor, [view[filled:]])
        if not read:
            break
        filled += read
    return filled


def _inspect_json(path: Path) -> None:
    if path.stat().st_size > _MAX_JSON:
        raise ArtifactRefused(f"{path} has more than {_MAX_JSON >> 20} MiB")
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ArtifactRefused(f"{path} is no JSON: {error}") from None
    if isinstance(content, dict):
        for key in _REMOTE_CODE:
            if content.get(key):
                raise ArtifactRefused(f"{path} asks for code of its own ({key}); none is run here")


def _inspect_safetensors(path: Path) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(_MAX_HEADER, size - 8) or file.read(1) != b"{":
            raise ArtifactRefused(f"{path} is no safetensors file")
