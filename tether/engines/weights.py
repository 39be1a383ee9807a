"""Where the weights of a model are: in its folder or file, or in a package that was installed."""

from __future__ import annotations

from importlib import util
from pathlib import Path

from tether.contracts import ModelCard
from tether.engines import folder, gguf_file, minilm, smollm2, vllm_home
from tether.engines.smollm2 import Progress
from tether.errors import ModelUnusable

_PACKAGES = {
    "gguf": smollm2.SOURCE,
    "transformers": smollm2.SOURCE,
    "vllm": smollm2.SOURCE,
    "embedding": minilm.SOURCE,
}


def prepare(card: ModelCard, cache_dir: Path, progress: Progress | None = None) -> Path | None:
    """The checked folder or file of `card`'s weights, converted first where needed; None for an
    engine without weights. Blocks; quick when there is nothing to do.

    `progress` is told (what, fraction from 0 to 1), at least once per second of waiting.

    Raises:
        ModelUnusable: a package or a file is missing, or the conversion failed.
    """
    engine = card.engine
    adapter_of(card)
    if engine not in _PACKAGES:
        return None
    if engine == "vllm":
        vllm_home.python(card.ref)
    if _needs_torch(card) and util.find_spec("torch") is None:
        raise ModelUnusable(
            f"model {card.ref} asks for the engine {engine!r}, which needs torch; "
            "run scripts/install, or pip install 'tether[torch]'"
        )
    package = _PACKAGES[engine]
    if not card.source:
        raise ModelUnusable(f"model {card.ref} has no source; name a folder or {package}")
    if not card.source.startswith("package:"):
        path = Path(card.source).expanduser()
        if engine == "gguf":
            return gguf_file.find(path)
        folder.check(path)
        return path
    if card.source != package:
        raise ModelUnusable(
            f"model {card.ref} has the source {card.source!r}; the only package known for the "
            f"engine {engine!r} is {package}"
        )
    if engine == "embedding":
        return minilm.find()
    if engine == "gguf":
        return smollm2.gguf()
    return smollm2.converted(cache_dir, progress or (lambda what, fraction: None))


def _needs_torch(card: ModelCard) -> bool:
    """In this environment: to run, or, for vllm, to convert a package's weights."""
    if card.engine == "vllm":
        return card.source.startswith("package:")
    return card.engine != "gguf"


def adapter_of(card: ModelCard) -> Path | None:
    """The checked folder or file of `card`'s adapter; None if it has none.

    Raises:
        ModelUnusable: its engine takes none, or the adapter isn't whole, or of another kind.
    """
    if not card.adapter:
        return None
    path = Path(card.adapter).expanduser()
    if card.engine in ("transformers", "vllm"):
        from tether.engines import lora  # with numpy, which a node without models has not

        lora.check(path)
        return path
    if card.engine == "gguf":
        from tether.engines import llama_adapter

        return llama_adapter.check(path)
    raise ModelUnusable(
        f"model {card.ref} has an adapter, and the engine {card.engine!r} takes none; "
        "use transformers, vllm or gguf, or remove it"
    )
