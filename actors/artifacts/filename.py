"""The rule for file names in an artifact: what may lie in one, by its name alone.

Weights are safetensors or GGUF, beside them lie the texts of a Hugging Face folder. All else is
refused by name: a pickle runs code when it is read, and so does a Python file.

Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

MAX_DEPTH: Final = 4
MAX_NAME: Final = 255

_PART: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+=@-]{0,127}")
_MEDIA: Final = {
    "safetensors": "application/vnd.safetensors",
    "gguf": "application/vnd.gguf",
    "json": "application/json",
    "txt": "text/plain",
    "md": "text/markdown",
    "jinja": "text/x-jinja",  # a chat template; it runs in a sandbox
    "model": "application/x-sentencepiece",
}
_PLAIN: Final = frozenset({"LICENSE", "NOTICE", "README", "USE_POLICY"})
_PICKLES: Final = frozenset({
    "bin", "pt", "pth", "pkl", "pickle", "ckpt", "joblib", "npy", "npz", "dill", "h5", "keras",
    "msgpack", "pdparams",
})  # fmt: skip
_CODE: Final = frozenset({"py", "pyc", "pyo", "pyd", "so", "dll", "dylib", "sh", "exe", "ipynb"})


def media_type(name: str) -> str:
    """The media type of a file that `fault` has nothing against."""
    last = name.rsplit("/", 1)[-1]
    return "text/plain" if last in _PLAIN else _MEDIA[_extension(last)]


def fault(name: str) -> str | None:
    """Why a file of this name (relative, with `/`) may not be in an artifact; None if it may."""
    if len(name) > MAX_NAME:
        return f"has a name of more than {MAX_NAME} characters"
    parts = name.split("/")
    if len(parts) > MAX_DEPTH:
        return f"lies more than {MAX_DEPTH - 1} folders deep"
    for part in parts:
        if part.startswith(".") and part.strip("."):
            return "is hidden"
        if not _PART.fullmatch(part) or part.endswith("."):
            return "has a name that is not plain (letters, digits, . _ - + = @)"
    if parts[-1] in _PLAIN:
        return None
    extension = _extension(parts[-1])
    if extension in _PICKLES:
        return "may hold a pickle, which runs code when it is read; convert it to safetensors"
    if extension in _CODE:
        return "is code, and an artifact brings none along"
    if extension == "model" and parts[-1] not in ("tokenizer.model", "spiece.model"):
        return "is of no kind that models need"
    if extension not in _MEDIA:
        return "is of no kind that models need"
    return None


def clash(names: Iterable[str]) -> str | None:
    """What is wrong with these names together: two that a file system may take for the same one,
    or one that is another's folder."""
    seen: dict[str, str] = {}
    listed = list(names)
    for name in listed:
        other = seen.setdefault(name.lower(), name)
        if other is not name:
            return f"{name} and {other} are the same file to some file systems"
    for name in listed:
        parts = name.lower().split("/")
        for depth in range(1, len(parts)):
            if (folder := "/".join(parts[:depth])) in seen:
                return f"{seen[folder]} is both a file and the folder of {name}"
    return None


def _extension(last: str) -> str:
    return last.rpartition(".")[2].lower() if "." in last else ""
