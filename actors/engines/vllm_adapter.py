"""A LoRA adapter over a model in vLLM, applied beside the weights and not merged into them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from actors.engines import folder as folders
from actors.engines.lora import CONFIG, Adapter
from actors.errors import ModelUnusable

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # vLLM's own list
_INSTEAD = "merge it into its base with peft, and serve that folder"


def room(adapter: Adapter, base: Path) -> int:
    """The rank that vLLM must be ready for, if the adapter was made for the model in `base`, by the
    rules of `merge`. vLLM itself copies what fits of a factor that doesn't, and says nothing.

    Raises:
        ModelUnusable: it wasn't, or its rank is more than vLLM takes.
    """
    most = max(len(factor.a) for factor in adapter.factors)
    fitting = [rank for rank in RANKS if rank >= most]
    if not fitting:
        raise ModelUnusable(
            f"{adapter.folder} is an adapter of rank {most}, and vLLM takes {RANKS[-1]} at most; "
            f"{_INSTEAD}"
        )
    shapes = {
        name.removesuffix(".weight"): list(tensor.shape)
        for path in sorted(base.glob("*.safetensors"))
        for name, tensor in folders.tensors(base, path.name).items()
        if name.endswith(".weight")
    }
    tied = folders.check(base).get("tie_word_embeddings", False)
    for factor in adapter.factors:
        shape = [len(factor.b), factor.a.shape[1]]
        wanted = shape[::-1] if factor.embedding else shape
        if (found := shapes.get(factor.module)) != wanted:
            has = f"has {_sizes(found)} there" if found else "has no such weight"
            raise ModelUnusable(
                f"{adapter.folder} changes {factor.module} by {_sizes(wanted)} numbers, "
                f"and the base {has}; was the adapter made for another base?"
            )
        if tied and factor.embedding:
            raise ModelUnusable(
                f"{adapter.folder} changes {factor.module}, whose weights the base uses in two "
                "places; train the adapter without it, or untie them"
            )
    changed = {factor.module for factor in adapter.factors}
    for name, shape in shapes.items():
        if len(shape) == 2 and name not in changed and adapter.targets(name):
            raise ModelUnusable(
                f"{adapter.folder} has no factors for {name}, which {CONFIG} names; "
                "was the adapter made for another base?"
            )
    return fitting[0]


def _sizes(shape: list[int]) -> str:
    return " x ".join(map(str, shape))


def attach(engine: Any, adapter: Adapter, name: str) -> Any:
    """The adapter, loaded, as vLLM wants it named in each request.

    Raises:
        ModelUnusable: vLLM refuses it.
    """
    from vllm.lora.request import LoRARequest

    request = LoRARequest(name, 1, str(adapter.folder))
    try:
        engine.add_lora(request)
    except Exception as error:  # whatever its files can provoke in the library
        reason = str(error.__cause__ or error).strip().splitlines() or [repr(error)]
        raise ModelUnusable(
            f"vLLM cannot load the adapter {adapter.folder} ({reason[0]}); {_INSTEAD}"
        ) from error
    return request
