"""The vllm engine: vLLM's scheduler, paged cache and kernels; draws, texts and ends are ours.

Its host (`actors.engines.host`) runs in the environment that has vLLM. The engine core runs on
our own thread in that process, so nothing outlives it. On processors it stands in for the GPU:
the same code, the same contract.
"""

from __future__ import annotations

import os
import sys
import warnings
from importlib import util
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from actors.contracts import ModelCard
from actors.engines import folder as folders
from actors.engines import smollm2, vllm_home, weights
from actors.engines.batch_engine import BatchEngine, Loaded
from actors.engines.engine import Capabilities, EngineOptions
from actors.engines.folder import unloadable
from actors.engines.tokenizer import Tokenizer, ends
from actors.engines.weights import Progress, silent
from actors.errors import ModelUnusable
from supervision.errors import TetherError

if TYPE_CHECKING:
    from actors.engines.lora import Adapter

DTYPES = ("float32", "bfloat16")
MOST_CACHE_BYTES = 4 << 30  # of keys and values, on processors; a GPU's memory is taken as it is


def prepare(card: ModelCard, cache_dir: Path, progress: Progress = silent) -> Path:
    """See `factory.prepare`."""
    weights.peft_adapter(card)
    vllm_home.python(card.ref)
    if card.source.startswith(weights.PACKAGE):
        weights.require_torch(card)  # in this environment, to convert them
    return weights.local(card, smollm2.SOURCE, weights.whole) or smollm2.converted(
        cache_dir, progress
    )


def create(card: ModelCard, options: EngineOptions) -> VllmEngine:
    """See `factory.create`."""
    return VllmEngine(card, options)


class VllmEngine(BatchEngine):
    """See the module. On processors and in float32 it continues exactly."""

    _tokenizer: Tokenizer

    def _load(self) -> Loaded:
        if util.find_spec("vllm") is None:
            raise ModelUnusable(
                f"model {self._card.ref} asks for the engine 'vllm', which this Python does not "
                "have; run scripts/install vllm"
            )
        card = self._card
        if card.dtype not in DTYPES:
            raise ModelUnusable(
                f"model {card.ref} has dtype {card.dtype!r}; use float32 or bfloat16"
            )
        self._set_environment()
        folder = prepare(card, self._options.cache_dir)
        config = folders.check(folder)
        context = self._context(config)
        path = weights.peft_adapter(card)
        from actors.engines import lora, vllm_adapter

        adapter = lora.read(path) if path is not None else None
        self._tokenizer = Tokenizer(folder)
        from actors.engines.vllm_batch import VllmBatch

        engine = self._engine(folder, context, vllm_adapter.room(adapter, folder) if adapter else 0)
        try:
            batch = VllmBatch(
                engine,
                ends=ends(folder, config),
                adapter=vllm_adapter.attach(engine, adapter, card.ref) if adapter else None,
            )
            batch.warm()
            _tidy(engine)
        except TetherError:
            engine.engine_core.shutdown()
            raise
        except Exception as error:
            engine.engine_core.shutdown()
            raise unloadable(folder, error) from error
        return Loaded(
            model=batch,
            table=self._tokenizer.table(engine.vllm_config.model_config.get_vocab_size()),
            control=self._tokenizer.control(),
            capabilities=self._capabilities(context, adapter),
            unload=engine.engine_core.shutdown,
        )

    def _set_environment(self) -> None:
        """Before vLLM and torch are imported."""
        cache = self._options.cache_dir / "vllm"
        os.environ.update(
            {
                "OMP_NUM_THREADS": str(self._options.threads),
                "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the core is in this process
                "VLLM_USE_V2_MODEL_RUNNER": "0",  # takes other logits processors
                "VLLM_NO_USAGE_STATS": "1",
                "VLLM_CACHE_ROOT": str(cache),
                "VLLM_CONFIG_ROOT": str(cache),
                "HF_HUB_OFFLINE": "1",
                # torch's gloo listens even for a group of one; where others can't reach it
                "GLOO_SOCKET_IFNAME": "lo" if sys.platform == "linux" else "lo0",
            }
        )
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # see TransformersEngine
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        warnings.filterwarnings("ignore", category=FutureWarning)

    def _context(self, config: dict[str, Any]) -> int:
        most = config.get("text_config", config).get("max_position_embeddings")
        return min(self._card.context, most) if isinstance(most, int) else self._card.context

    def _engine(self, folder: Path, context: int, rank: int) -> Any:
        """A vLLM engine with `folder` loaded, and room for adapters of `rank` if it isn't 0."""
        from vllm.engine.arg_utils import EngineArgs
        from vllm.platforms import current_platform
        from vllm.v1.engine.llm_engine import LLMEngine
        from vllm.v1.executor import uniproc_executor

        from actors.engines.vllm_sampler import KeyedSampler

        # multiprocessing's is a file in /dev/shm, where the node's PostgreSQL has its memory
        vars(uniproc_executor)["Lock"] = Lock
        options = self._options
        bounds: dict[str, Any] = {}
        if current_platform.is_cpu():
            bounds["kv_cache_memory_bytes"] = _cache_bytes(
                folder, self._card.dtype, context, options.slots
            )
        if rank:
            bounds |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": rank}
        try:
            return LLMEngine.from_engine_args(
                EngineArgs(
                    model=str(folder),
                    skip_tokenizer_init=True,
                    trust_remote_code=False,
                    load_format="safetensors",
                    use_tqdm_on_load=False,
                    generation_config="vllm",
                    dtype=self._card.dtype,
                    max_model_len=context,
                    max_num_seqs=options.slots,
                    max_num_batched_tokens=options.slots + options.prefill_tokens,
                    enforce_eager=current_platform.is_cpu(),
                    async_scheduling=False,  # our draw needs the tokens before it
                    enable_prefix_caching=options.prefix_bytes > 0,
                    seed=0,
                    disable_log_stats=True,
                    logits_processors=[KeyedSampler],
                    **bounds,
                )
            )
        except Exception as error:  # whatever config and weights can provoke in the library
            raise unloadable(folder, error) from error

    def _capabilities(self, context: int, adapter: Adapter | None) -> Capabilities:
        import torch
        import vllm

        from actors.engines import lora
        from actors.engines.device import described, device

        dtype, where = self._card.dtype, device()
        return Capabilities(
            resume="exact" if dtype == "float32" and where.type == "cpu" else "prefix",
            tag="/".join(
                (
                    "vllm",
                    dtype,
                    vllm.__version__,
                    f"torch-{torch.__version__}",
                    described(where),
                    *([lora.tag(adapter.digest)] if adapter else []),
                )
            ),
            context=context,
            chat=self._tokenizer.chat,
        )

    def _templated(self, messages: list[dict[str, str]]) -> str:
        return self._tokenizer.templated(messages)

    def _encode(self, text: str, *, special: bool, plain: bool = False) -> tuple[int, ...]:
        return self._tokenizer.encode(text, special=special, plain=plain)


def _tidy(engine: Any) -> None:
    """Its processes, of which there is one, have met by a file; it would stay for ever."""
    core = engine.engine_core.engine_core
    place = str(core.model_executor.driver_worker.worker.distributed_init_method)
    if place.startswith("file://"):
        Path(place.removeprefix("file://")).unlink(missing_ok=True)


def _cache_bytes(folder: Path, dtype: str, context: int, slots: int) -> int:
    """Keys and values of `slots` answers as long as the context, at most `MOST_CACHE_BYTES`, but
    never less than one of them needs. Pages that were never written take no memory."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, local_files_only=True).get_text_config()
    heads: int = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    width = (getattr(config, "num_key_value_heads", None) or heads) * head_dim
    token: int = 2 * config.num_hidden_layers * width * (4 if dtype == "float32" else 2)
    block = 128  # tokens; vLLM's on processors. One block of all is nobody's
    answer = -(-context // block) * block * token
    return max(answer, min(slots * answer, MOST_CACHE_BYTES)) + 2 * block * token
