"""The device of a model on torch: the first GPU that this process may see, or else the processor.
Which GPUs an engine's process sees, its worker says (`workers.gpus`)."""

from __future__ import annotations

import torch


def device() -> torch.device:
    """Of this process."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def described(where: torch.device) -> str:
    """For the tag of an engine: numbers of equal kinds are equal."""
    if where.type == "cpu":
        return str(torch.backends.cpu.get_cpu_capability())
    return str(torch.cuda.get_device_name(where)).replace(" ", "-")


def reserved_bytes() -> int:
    """Of a GPU's memory, by this process; 0 while it uses none."""
    return int(torch.cuda.memory_reserved()) if torch.cuda.is_initialized() else 0
