"""The hardware of a machine, and how much of it is left: processors, memory, GPUs."""

from __future__ import annotations

import os
from typing import Any, Final

from actors.contracts import Gpu, Hardware
from supervision.telemetry import logs

MAX_GPUS: Final = 64

log = logs.get(__name__)


class Machine:
    """This one. `look` reads files and asks the GPU's driver, which takes a while: in a thread.

    GPUs are asked by NVML (package nvidia-ml-py, extra `gpu`). Where there is no package, no driver
    or no GPU, there are none; that is said once, at debug level.
    """

    def __init__(self, nvml: Any = None) -> None:
        """`nvml` stands in for the module pynvml."""
        self._nvml = nvml
        self._tried = False

    def look(self) -> Hardware:
        """As it is now. Never raises."""
        memory_bytes, free_bytes = _memory()
        try:
            load = os.getloadavg()[0]
        except OSError:
            load = 0.0
        return Hardware(
            cores=len(os.sched_getaffinity(0)),
            load=round(load, 2),
            memory_bytes=memory_bytes,
            free_bytes=free_bytes,
            gpus=self._gpus(),
        )

    def _gpus(self) -> tuple[Gpu, ...]:
        if not self._tried:
            self._tried = True
            self._nvml = _opened(self._nvml)
        nvml = self._nvml
        if nvml is None:
            return ()
        try:
            count = min(nvml.nvmlDeviceGetCount(), MAX_GPUS)
            return tuple(_gpu(nvml, number) for number in range(count))
        except nvml.NVMLError as error:
            log.warning("the GPU's driver doesn't answer any more", error=str(error))
            self._nvml = None
            return ()


def _memory() -> tuple[int, int]:
    """Bytes that there are, and that are free or can be freed; zeros where nobody says."""
    import psutil  # 10 ms, in the thread that looks

    try:
        memory = psutil.virtual_memory()
    except OSError as error:
        log.debug("can't read how much memory there is", error=str(error))
        return 0, 0
    return memory.total, memory.available


def _opened(nvml: Any) -> Any:
    if nvml is None:
        try:
            import pynvml
        except ImportError:
            log.debug("GPUs can't be seen: nvidia-ml-py isn't installed")
            return None
        nvml = pynvml
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        log.debug("there is no GPU of NVIDIA's", error=str(error))
        return None
    return nvml


def _gpu(nvml: Any, number: int) -> Gpu:
    """What one of them can't say is left 0: some models have no counter of their load."""
    handle = nvml.nvmlDeviceGetHandleByIndex(number)
    name = nvml.nvmlDeviceGetName(handle)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    try:
        load = nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100
    except nvml.NVMLError:
        load = 0.0
    return Gpu(
        name=name.decode() if isinstance(name, bytes) else str(name),
        memory_bytes=int(memory.total),
        used_bytes=int(memory.used),
        load=load,
    )
