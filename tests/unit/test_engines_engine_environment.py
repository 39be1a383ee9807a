"""What an engine sees of its worker's environment."""

from __future__ import annotations

from actors.engines.engine_environment import scrubbed

SECRET = (
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AZURE_STORAGE_KEY",
    "GOOGLE_APPLICATION_CREDENTIALS", "DATABASE_URL", "PGPASSWORD", "PGPASSFILE", "HF_TOKEN",
    "HF_HUB_TOKEN", "VLLM_API_KEY", "TRITON_AUTH", "NVIDIA_API_KEY", "TETHER_DSN",
    "TETHER_STORE_SECRET_KEY", "TETHER_VLLM_PYTHON", "SSH_AUTH_SOCK", "NOTIFY_SOCKET",
    "PROMETHEUS_MULTIPROC_DIR", "HOME", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS",
)  # fmt: skip
PLAIN = (
    "PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "CUDA_HOME",
    "VLLM_LOGGING_LEVEL", "TORCHINDUCTOR_CACHE_DIR", "TOKENIZERS_PARALLELISM",
    "TETHER_NODE_HOME", "TETHER_LOG_LEVEL", "TETHER_ENGINE_NAME",
)  # fmt: skip


def test_what_is_called_a_secret_stays_out():
    seen = scrubbed(dict.fromkeys(SECRET, "x"), cache="", temporary="", gpus=None)
    assert seen == {"HOME": "/nonexistent"}


def test_what_libraries_are_told_stays():
    given = dict.fromkeys(PLAIN, "x")
    assert scrubbed(given, cache="", temporary="", gpus=None).items() >= given.items()


def test_home_and_temporary_files_are_its_own():
    given = {"HOME": "/root", "TMPDIR": "/tmp", "CUDA_VISIBLE_DEVICES": "0,1"}
    given["TORCHINDUCTOR_CACHE_DIR"] = "/elsewhere"
    seen = scrubbed(given, cache="/c/home", temporary="/c/1", gpus="1")
    assert seen == {
        "HOME": "/c/home",
        "XDG_CACHE_HOME": "/c/home/cache",
        "TORCHINDUCTOR_CACHE_DIR": "/c/home/torchinductor",
        "TRITON_CACHE_DIR": "/c/home/triton",
        "CUDA_CACHE_PATH": "/c/home/cuda",
        "TMPDIR": "/c/1",
        "CUDA_VISIBLE_DEVICES": "1",
    }
