"""An engine in a process of its own: what happens to it happens to nobody else."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from actors.contracts import ChatInput, Message, ModelCard, Sampling
from actors.engines import hosted
from actors.engines.engine import Engine, EngineOptions
from actors.engines.generation import Generation
from actors.engines.hosted import HostedEngine
from actors.engines.watchdog import Watchdog
from actors.errors import ModelUnusable
from supervision.errors import PeerLost
from tests.support import tiny_gguf
from tests.support.waiting import until

SEVERAL = 3


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> ModelCard:
    return tiny_gguf.card(tiny_gguf.make(tmp_path_factory.mktemp("tiny")))


@pytest_asyncio.fixture
async def engine(card: ModelCard, tmp_path: Path) -> AsyncIterator[HostedEngine]:
    made = HostedEngine(card, EngineOptions(cache_dir=tmp_path, slots=4))
    await made.open()
    yield made
    await made.close()


async def job(of: Engine, **sampling: object) -> Generation:
    asked = ChatInput(messages=(Message(role="user", content="tell me of the sea"),))
    values = {"max_tokens": 450, "temperature": 0.0, "seed": 0, **sampling}
    return Generation(prompt_ids=await of.prompt(asked), sampling=Sampling(**values))  # type: ignore[arg-type]


async def test_all_answers_of_an_engine_that_crashes_break_off(engine: HostedEngine) -> None:
    os.kill(engine.pid, signal.SIGSTOP)  # so that none of them can be over before
    what = Generation(
        prompt_ids=(5, 6, 7), sampling=Sampling(max_tokens=400, temperature=0.0, seed=0)
    )
    runs = [asyncio.create_task(anext(engine.run(what))) for _ in range(SEVERAL)]
    prompt = asyncio.create_task(engine.prompt(ChatInput(messages=(Message("user", "hi"),))))
    await asyncio.sleep(0)
    os.kill(engine.pid, signal.SIGKILL)
    for run in (*runs, prompt):
        with pytest.raises(PeerLost, match="signal 9"):
            await run
    assert "signal 9" in engine.snapshot().fault
    with pytest.raises(PeerLost):
        await job(engine)


async def silence(engine: HostedEngine) -> None:
    await until(lambda: engine.snapshot().fault)


async def test_an_engine_that_says_nothing_is_ended(
    engine: HostedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosted, "TICK_S", 0.02)
    engine._watchdog = Watchdog(stuck_s=100, probe_s=30)
    pid = engine.pid
    os.kill(pid, signal.SIGSTOP)
    await silence(engine)
    assert "says nothing" in engine.snapshot().fault
    await engine.close()
    assert not psutil.pid_exists(pid)


async def test_answers_that_do_not_move_are_seen(
    engine: HostedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pulse beats, its steps don't come: such is an endless loop in a kernel."""
    monkeypatch.setattr(engine, "_order", lambda order: None)  # what it is told is lost
    monkeypatch.setattr(hosted, "TICK_S", 0.02)
    engine._watchdog = Watchdog(stuck_s=200, probe_s=30)
    what = Generation(prompt_ids=(5,), sampling=Sampling(max_tokens=4, seed=0))
    with pytest.raises(PeerLost, match="don't move"):
        await anext(engine.run(what))


async def test_an_idle_engine_is_probed(
    engine: HostedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosted, "TICK_S", 0.02)
    engine._watchdog = Watchdog(stuck_s=60, probe_s=2)
    await until(lambda: engine.snapshot().output_tokens >= SEVERAL)
    assert not engine.snapshot().fault


async def test_it_ends_with_a_worker_that_is_killed(card: ModelCard, tmp_path: Path) -> None:
    program = f"""
import asyncio, pathlib, msgspec
from actors.contracts import ModelCard
from actors.engines.engine import EngineOptions
from actors.engines.hosted import HostedEngine
from actors.engines.watchdog import Watchdog
async def main():
    card = msgspec.json.decode({msgspec_json(card)!r}, type=ModelCard)
    engine = HostedEngine(card, EngineOptions(cache_dir=pathlib.Path({str(tmp_path)!r})))
    await engine.open()
    print(engine.pid, flush=True)
    await asyncio.sleep(3600)
asyncio.run(main())
"""
    worker = started(program)
    try:
        assert worker.stdout is not None
        line = await asyncio.get_running_loop().run_in_executor(None, worker.stdout.readline)
        host = psutil.Process(int(line))
        host.suspend()  # it can't see the end of its socket
    finally:
        worker.kill()
        worker.communicate()
    await until(lambda: not host.is_running() or host.status() == psutil.STATUS_ZOMBIE)


async def test_a_file_that_is_no_model_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(b"GGUF\3\0\0\0" + bytes(64))
    for content, told in (
        (b"GGUF\3\0\0\0" + bytes(64), "cannot be loaded"),
        (b"zip", "not a GGUF"),
    ):
        path.write_bytes(content)
        engine = HostedEngine(tiny_gguf.card(path), EngineOptions(cache_dir=tmp_path))
        with pytest.raises(ModelUnusable, match=told) as caught:
            await engine.open()
        assert "\n" not in caught.value.message
        assert engine.pid == 0


def started(program: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)


def msgspec_json(card: ModelCard) -> str:
    import msgspec

    return msgspec.json.encode(card).decode()
