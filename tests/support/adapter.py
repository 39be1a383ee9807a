"""LoRA adapters made by peft over the tiny Llama of `tests.support.tiny`, and what peft merges of
them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def make(
    base: Path, folder: Path, *, seed: int = 0, merged: Path | None = None, **said: Any
) -> Path:
    """Write an adapter over `base` into `folder`, both its factors random; `said` goes into its
    config. The model that peft merges of the two is saved in `merged`, with `base`'s words."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    settings = {"r": 4, "lora_alpha": 8, "target_modules": list(TARGETS), **said}
    torch.manual_seed(seed)
    net = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
        LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, **settings),
    )
    net.save_pretrained(folder, save_embedding_layers=False)
    if merged is not None:
        net.merge_and_unload().save_pretrained(merged)
        AutoTokenizer.from_pretrained(base).save_pretrained(merged)
    return folder


def say(folder: Path, **said: Any) -> None:
    """Change an adapter's config."""
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **said}))


def weights(folder: Path) -> dict[str, Any]:
    """An adapter's tensors, as torch has them."""
    from safetensors.torch import load_file

    return load_file(folder / "adapter_model.safetensors")


def write(folder: Path, tensors: dict[str, Any]) -> None:
    """Give an adapter these tensors."""
    from safetensors.torch import save_file

    save_file(tensors, folder / "adapter_model.safetensors")
