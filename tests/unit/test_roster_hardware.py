"""What a machine says of itself."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from actors.contracts import Gpu
from actors.roster.hardware import Machine


class NVMLError(Exception):
    pass


class Driver:
    """NVML as a machine with two GPUs has it; `broken` names the calls that fail."""

    NVMLError = NVMLError

    def __init__(self, *broken: str) -> None:
        self.broken = set(broken)
        self.opened = 0

    def __getattr__(self, name: str) -> Any:
        answers: dict[str, Any] = {
            "nvmlInit": None,
            "nvmlDeviceGetCount": 2,
            "nvmlDeviceGetHandleByIndex": object(),
            "nvmlDeviceGetName": b"H100",
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=80, used=5),
            "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=50),
        }

        def call(*_: object) -> Any:
            if name == "nvmlInit":
                self.opened += 1
            if name in self.broken:
                raise NVMLError(name)
            return answers[name]

        return call


def test_this_machine():
    here = Machine().look()
    assert here.cores >= 1
    assert 0 < here.free_bytes <= here.memory_bytes


def test_gpus():
    driver = Driver()
    machine = Machine(nvml=driver)
    for _ in range(2):
        assert (
            machine.look().gpus == (Gpu(name="H100", memory_bytes=80, used_bytes=5, load=0.5),) * 2
        )
    assert driver.opened == 1
    silent = Machine(nvml=Driver("nvmlDeviceGetUtilizationRates"))
    assert [gpu.load for gpu in silent.look().gpus] == [0.0, 0.0]


def test_no_driver_no_gpu_and_no_second_try():
    driver = Driver("nvmlInit")
    machine = Machine(nvml=driver)
    assert machine.look().gpus == ()
    assert machine.look().gpus == ()
    assert driver.opened == 1
    lost = Driver()
    machine = Machine(nvml=lost)
    assert len(machine.look().gpus) == 2
    lost.broken.add("nvmlDeviceGetCount")
    assert machine.look().gpus == ()
    lost.broken.clear()
    assert machine.look().gpus == (), "a driver that failed isn't asked again"


def test_memory_that_nobody_tells_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path))
    found = Machine(nvml=Driver("nvmlInit")).look()
    assert (found.memory_bytes, found.free_bytes) == (0, 0)
    assert found.cores >= 1
