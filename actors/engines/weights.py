"""The place of a model's weights: its folder or file, or a package that was installed."""

from __future__ import annotations

from collections.abc import Callable
from importlib import util
from pathlib import Path

from actors.contracts import ModelCard
from actors.engines import folder
from actors.errors import ModelUnusable

Progress = Callable[[str, float], None]
PACKAGE = "package:"  # how a source that is one begins


def silent(what: str, fraction: float) -> None:
    """A `Progress` for whoever doesn't want to know."""


def local(card: ModelCard, package: str, find: Callable[[Path], Path]) -> Path | None:
    """What `find` makes of the folder or file that is `card`'s source; None if that is `package`,
    the only one that its engine knows.

    Raises:
        ModelUnusable: there is no source, it is another package, or `find` refuses it.
    """
    if not card.source:
        raise ModelUnusable(f"model {card.ref} has no source; name a folder or {package}")
    if not card.source.startswith(PACKAGE):
        return find(Path(card.source).expanduser())
    if card.source != package:
        raise ModelUnusable(
            f"model {card.ref} has the source {card.source!r}; the only package known for the "
            f"engine {card.engine!r} is {package}"
        )
    return None


def whole(path: Path) -> Path:
    """The folder `path`, checked.

    Raises:
        ModelUnusable: see `folder.check`.
    """
    folder.check(path)
    return path


def require_torch(card: ModelCard) -> None:
    """
    Raises:
        ModelUnusable: it isn't in this environment.
    """
    if util.find_spec("torch") is None:
        raise ModelUnusable(
            f"model {card.ref} asks for the engine {card.engine!r}, which needs torch; "
            "run scripts/install, or pip install 'tether[torch]'"
        )


def peft_adapter(card: ModelCard) -> Path | None:
    """The checked folder of `card`'s adapter, as PEFT saves one; None if it has none.

    Raises:
        ModelUnusable: it isn't whole, or of another kind.
    """
    if not card.adapter:
        return None
    from actors.engines import lora  # with numpy, which a node without models has not

    path = Path(card.adapter).expanduser()
    lora.check(path)
    return path
