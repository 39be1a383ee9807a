"""vLLM's scheduler as a batch: sequences in, steps of tokens out.

vLLM's engine core runs in this thread (no process of its own that could outlive us). It is told
token ids and how many more are wanted; which token is drawn, what text it is and whether the
answer ends is decided by the same code as in the other engines.
"""

from __future__ import annotations

import itertools
from collections import deque
from typing import Any, NamedTuple

import torch
from vllm import SamplingParams
from vllm.inputs.engine import tokens_input
from vllm.sampling_params import RequestOutputKind

from actors.engines.batch import BatchStep
from actors.engines.engine import Reuse
from actors.engines.sequence import Sequence
from actors.engines.vllm_sampler import KEY, Draw
from supervision.errors import Internal


class _Asked(NamedTuple):
    """A sequence in vLLM, and the name that vLLM gave it."""

    sequence: Sequence
    draw: Draw
    name: str


class VllmBatch:
    """See the module; a `Batch`.

    Args:
        engine: a vLLM `LLMEngine` whose core is in this process.
        ends: the tokens that end a turn.
        adapter: a `LoRARequest` for every answer, or None.
    """

    def __init__(self, engine: Any, *, ends: frozenset[int], adapter: Any = None) -> None:
        self.ends = ends
        self.steps = 0
        self.prompt_tokens = 0
        self.output_tokens = 0
        self._lent = self._hits = self._misses = 0
        self._engine = engine
        self._adapter = adapter
        core = engine.engine_core.engine_core
        self._runner = core.model_executor.driver_worker.worker.model_runner
        self._scheduler = core.scheduler
        pool = self._pool = self._scheduler.kv_cache_manager.block_pool
        held = sum(tensor.size for tensor in self._scheduler.kv_cache_config.kv_cache_tensors)
        self._block_bytes = held // pool.num_gpu_blocks
        self._free = pool.get_num_free_blocks()  # when nobody runs
        self._names = (f"{number}" for number in itertools.count(1))
        self._new: deque[Sequence] = deque()
        self._sequences: dict[str, _Asked] = {}
        self._cancelled: list[Sequence] = []

    def warm(self) -> None:
        """One token: some models load, and have no kernel that computes them.

        Raises:
            Exception: whatever the kernels and libraries say.
        """
        params = SamplingParams(temperature=0.0, max_tokens=1, detokenize=False)
        self._engine.add_request("0", tokens_input([0]), params, lora_request=self._adapter)
        while self._engine.has_unfinished_requests():
            self._engine.step()

    @property
    def running(self) -> int:
        """Answers that vLLM computes."""
        return len(self._scheduler.running)

    @property
    def queued(self) -> int:
        """Answers that wait for memory or a place."""
        return len(self._new) + max(0, len(self._sequences) - self.running)

    @property
    def busy(self) -> bool:
        """There is something to do."""
        return bool(self._sequences or self._new or self._cancelled)

    @property
    def memory_bytes(self) -> int:
        """What the running answers hold of the cache; blocks that are kept in case a prompt
        begins alike are free."""
        return int((self._free - self._pool.get_num_free_blocks()) * self._block_bytes)

    @property
    def reuse(self) -> Reuse:
        """See there; what is kept lies in blocks that nobody needs, so it holds no bytes more."""
        return Reuse(tokens=self._lent, hits=self._hits, misses=self._misses)

    def add(self, sequence: Sequence) -> None:
        """See `Batch.add`."""
        self._new.append(sequence)

    def cancel(self, sequence: Sequence) -> None:
        """See `Batch.cancel`."""
        sequence.cancelled = True
        self._cancelled.append(sequence)

    def step(self) -> BatchStep:
        """See `Batch.step`."""
        step = BatchStep()
        self._drop(step)
        while self._new:
            self._begin(self._new.popleft(), step)
        if not self._sequences:
            return step
        self.steps += 1
        over = []
        for output in self._engine.step():
            sequence, draw, name = self._sequences[output.request_id]
            if draw.wrong:
                self._cleanse(name)
                self._fail(sequence, draw.wrong, step)
            else:
                if sequence.fed == 0:
                    self._take_in(sequence, output.num_cached_tokens or 0)
                self._accept(sequence, output.outputs[0].token_ids, step)
                if output.finished and not sequence.done:
                    self._fail(sequence, f"vLLM ended it: {output.outputs[0].finish_reason}", step)
            if sequence.done:
                del self._sequences[output.request_id]
                if not output.finished:
                    over.append(output.request_id)
        self._abort(over)
        return step

    def _drop(self, step: BatchStep) -> None:
        cancelled, self._cancelled = self._cancelled, []
        if not cancelled:
            return
        step.dropped.extend(sequence for sequence in cancelled if not sequence.done)
        self._new = deque(sequence for sequence in self._new if not sequence.cancelled)
        names = [name for name, asked in self._sequences.items() if asked.sequence.cancelled]
        for name in names:
            del self._sequences[name]
        self._abort(names)

    def _abort(self, names: list[str]) -> None:
        if names:
            self._engine.abort_request(names)

    def _begin(self, sequence: Sequence, step: BatchStep) -> None:
        draw = Draw(sequence.sampling, sequence.emitted)
        params = SamplingParams(
            temperature=0.0,
            # The sequence ends by itself, and one token before vLLM would end it: see `_cleanse`.
            max_tokens=sequence.sampling.max_tokens - sequence.emitted + 1,
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
            extra_args={KEY: draw},
        )
        name = next(self._names)
        try:
            theirs = self._engine.add_request(
                name,
                tokens_input(sequence.tokens[:], cache_salt=sequence.scope or None),
                params,
                lora_request=self._adapter,
            )
        except Exception as error:
            self._fail(sequence, f"{type(error).__name__}: {error}", step)
            return
        self._sequences[name] = _Asked(sequence, draw, theirs)

    def _take_in(self, sequence: Sequence, lent: int) -> None:
        sequence.fed, sequence.lent = sequence.given, lent
        self.prompt_tokens += sequence.given
        self._lent += lent
        self._hits += lent > 0
        self._misses += lent == 0

    def _accept(self, sequence: Sequence, tokens: list[int], step: BatchStep) -> None:
        for token in tokens:
            try:
                delta = sequence.accept(token, self.ends)
            except Exception as error:
                self._fail(sequence, f"{type(error).__name__}: {error}", step)
                return
            self.output_tokens += 1
            step.said.append((sequence, delta))
            if sequence.done:
                return

    def _cleanse(self, name: str) -> None:
        """Nothing that is no number may stay in memory that another answer gets: vLLM's kernels
        multiply what they mask out by 0, and 0 times nan is nan."""
        manager = self._scheduler.kv_cache_manager
        blocks = {
            block.block_id
            for group in manager.get_blocks(name).blocks
            for block in group
            if block.ref_cnt == 1  # shared ones were computed before, by who lives on
        }
        manager.evict_blocks(blocks)
        for cache in self._runner.kv_caches:
            dimension = cache.shape.index(self._pool.num_gpu_blocks)
            cache.index_fill_(
                dimension, torch.tensor(sorted(blocks), dtype=torch.long, device=cache.device), 0
            )

    def _fail(self, sequence: Sequence, cause: str, step: BatchStep) -> None:
        sequence.done = True
        cause = cause.splitlines()[0][:200]
        step.said.append(
            (sequence, Internal(f"the engine could not compute this answer ({cause})"))
        )
