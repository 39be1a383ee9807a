"""The check that a file is GGUF, made before llama.cpp, which would say it less clearly."""

from __future__ import annotations

from pathlib import Path

from actors.errors import ModelUnusable

MAGIC = b"GGUF"  # ggml's docs/gguf.md: the magic, then a version as uint32, little-endian
VERSIONS = range(2, 4)


def find(path: Path) -> Path:
    """The file `path`, or the only GGUF file of the folder `path`.

    Raises:
        ModelUnusable: the first thing that is wrong, and what to do.
    """
    if path.is_dir():
        files = sorted(path.glob("*.gguf"))
        if len(files) != 1:
            raise ModelUnusable(
                f"the folder {path} holds {len(files)} GGUF files, not one; name the file"
            )
        path = files[0]
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise ModelUnusable(f"{path} cannot be read ({error.strerror}); check `source`") from None
    if head[:4] != MAGIC or int.from_bytes(head[4:], "little") not in VERSIONS:
        raise ModelUnusable(
            f"{path} is not a GGUF file of version 2 or 3; fetch it again, or check `source`"
        )
    return path
