"""The environment of an engine's process: what is on a list, and nothing that is called a secret.

The worker's own holds keys of object stores, DSNs and whatever the service was started with; an
engine computes on what strangers send, by libraries that are large. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

NAMES: Final = frozenset(
    {
        "PATH", "TZ", "LANG", "LANGUAGE", "VIRTUAL_ENV",
        "LD_LIBRARY_PATH", "LD_PRELOAD",  # of whoever runs the node: CUDA, an allocator
        "PYTHONPATH", "PYTHONHOME", "PYTHONUNBUFFERED", "PYTHONFAULTHANDLER", "PYTHONHASHSEED",
        "PYTHONDONTWRITEBYTECODE", "PYTHONWARNINGS", "PYTHONNOUSERSITE",
        "SPT_NOENV", "TOKENIZERS_PARALLELISM", "MALLOC_ARENA_MAX",
        # which node's it is, its name in `ps`, how much it logs
        "TETHER_NODE_HOME", "TETHER_ENGINE_NAME", "TETHER_LOG_LEVEL",
    }
)  # fmt: skip
PREFIXES: Final = (
    "LC_", "OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "BLIS_", "NUMEXPR_",
    "CUDA_", "NVIDIA_", "NCCL_", "CUBLAS_", "HIP_", "ROCR_", "ROCM_", "HSA_", "GPU_",
    "TORCH_", "TORCHINDUCTOR_", "PYTORCH_", "TRITON_", "GLOO_", "VLLM_", "GGML_", "LLAMA_",
    "HF_HUB_", "TRANSFORMERS_",
)  # fmt: skip
_CACHES: Final = {
    "XDG_CACHE_HOME": "cache",
    "TORCHINDUCTOR_CACHE_DIR": "torchinductor",
    "TRITON_CACHE_DIR": "triton",
    "CUDA_CACHE_PATH": "cuda",
}
"""Where libraries write what they have compiled: below the engine's own folder, whatever the
worker was told."""
_SECRET: Final = re.compile(r"KEY|TOKEN|SECRET|PASS|CREDENTIAL|AUTH|DSN|COOKIE|WEBHOOK")


def scrubbed(
    environ: Mapping[str, str], *, cache: str, temporary: str, gpus: str | None
) -> dict[str, str]:
    """What of `environ` an engine sees. `cache` is its home, which stays; `temporary` what it may
    use while it runs; each "" for none. `gpus` are those of CUDA_VISIBLE_DEVICES, None for what
    `environ` says."""
    kept = {
        name: value
        for name, value in environ.items()
        if name in NAMES or (name.startswith(PREFIXES) and not _SECRET.search(name))
    }
    kept["HOME"] = cache or "/nonexistent"
    if cache:
        kept |= {name: f"{cache}/{folder}" for name, folder in _CACHES.items()}
    if temporary:
        kept["TMPDIR"] = temporary
    if gpus is not None:
        kept["CUDA_VISIBLE_DEVICES"] = gpus
    return kept
