"""The home of vLLM: an environment of its own, as it pins other versions than ours, or, on a
machine with CUDA, that of the node."""

from __future__ import annotations

import os
import sys
from importlib import util
from pathlib import Path

from actors.errors import ModelUnusable

VARIABLE = "TETHER_VLLM_PYTHON"
FOLDER = ".venv-vllm"  # which scripts/install vllm makes


def is_there() -> bool:
    """Can vLLM be run here?"""
    try:
        python("")
    except ModelUnusable:
        return False
    return True


def python(ref: str) -> str:
    """The interpreter that runs vLLM for the model `ref`.

    Raises:
        ModelUnusable: there is none.
    """
    if named := os.environ.get(VARIABLE):
        if os.access(named, os.X_OK) and Path(named).is_file():
            return named
        raise ModelUnusable(
            f"model {ref} asks for the engine 'vllm', and {VARIABLE} names {named}, which is no "
            "program; let it name the Python of an environment that has vLLM"
        )
    beside = Path(sys.prefix).parent / FOLDER / "bin" / "python"
    if beside.is_file():
        return str(beside)
    if util.find_spec("vllm") is not None:
        return sys.executable
    raise ModelUnusable(
        f"model {ref} asks for the engine 'vllm', which is not installed; run "
        f"scripts/install vllm, or let {VARIABLE} name the Python of an environment that has it"
    )
