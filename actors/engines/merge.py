"""A LoRA adapter merged into a network on torch: W + scaling · B·A, once, when it is loaded.

Equal to the bit to what peft's `merge_and_unload` leaves in float32. In bfloat16 the sum is
computed in float32 and rounded once, where peft rounds the change before it adds it.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch

from actors.engines.lora import CONFIG, Adapter, Factor
from actors.errors import ModelUnusable


def merge(net: Any, adapter: Adapter) -> None:
    """Change the weights of `net`, a transformers model, as `adapter` says. Nothing of `adapter` is
    kept.

    Raises:
        ModelUnusable: it was made for another base.
    """
    from transformers.pytorch_utils import Conv1D

    modules: dict[str, Any] = dict(net.named_modules())
    users = Counter(id(m.weight) for m in modules.values() if hasattr(m, "weight"))
    for factor in adapter.factors:
        module = modules.get(factor.module)
        kinds = (torch.nn.Embedding,) if factor.embedding else (torch.nn.Linear, Conv1D)
        if not isinstance(module, kinds):
            raise ModelUnusable(
                f"{adapter.folder} has factors for {factor.module}, and the base has no such "
                "layer; was the adapter made for another base?"
            )
        if users[id(module.weight)] > 1:
            raise ModelUnusable(
                f"{adapter.folder} changes {factor.module}, whose weights the base uses in two "
                "places; train the adapter without it, or untie them"
            )
        _add(adapter, factor, module, across=factor.embedding or isinstance(module, Conv1D))
    changed = {factor.module for factor in adapter.factors}
    for name, module in modules.items():
        linear = isinstance(module, (torch.nn.Linear, Conv1D))
        if linear and name not in changed and adapter.targets(name):
            raise ModelUnusable(
                f"{adapter.folder} has no factors for {name}, which {CONFIG} names; "
                "was the adapter made for another base?"
            )


def _add(adapter: Adapter, factor: Factor, module: Any, *, across: bool) -> None:
    """`across`: the weight is (in, out), not (out, in)."""
    weight: torch.Tensor = module.weight.data
    out, rank, into = *factor.b.shape, factor.a.shape[1]
    if tuple(weight.shape) != ((into, out) if across else (out, into)):
        raise ModelUnusable(
            f"{adapter.folder} changes {factor.module} by {out} x {into} numbers of rank {rank}, "
            f"and the base has {' x '.join(map(str, weight.shape))} there; was the adapter made "
            "for another base?"
        )
    change = torch.from_numpy(factor.b) @ torch.from_numpy(factor.a)
    change = (change.T if across else change) * factor.scaling
    # In place: the weights are pages of the base's file, mapped copy-on-write, and new tensors
    # beside them would take the memory of the model once more.
    if weight.dtype == torch.float32:
        weight.add_(change.to(weight.device))
    else:
        weight.copy_(weight.float().add_(change.to(weight.device)))
