"""A worker begins when the engines of one that was killed have let go of what they held."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from actors.contracts import ModelCard
from actors.engines import host_process, host_wire
from actors.worker import remains
from supervision.errors import Hindered
from tests.support.waiting import PATIENCE_S, until

CARD = ModelCard(name="echo", version="1", engine="echo")
PATH = "workers/w"


async def test_engines_of_a_predecessor_are_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TETHER_NODE_HOME", str(tmp_path))
    monkeypatch.setenv(host_wire.NAME, "")
    await remains.gone(PATH, 0.0)
    process, ours = host_process.start(CARD)
    try:
        name = remains.name_of(str(tmp_path), PATH)
        comm = Path(f"/proc/{process.pid}/comm")
        await until(lambda: comm.read_text().strip() == name)
        with pytest.raises(Hindered, match=str(process.pid)):
            await remains.gone(PATH, 0.1)
        await remains.gone("workers/other", 0.0)
        successor = asyncio.create_task(remains.gone(PATH, PATIENCE_S))
        await asyncio.sleep(0.2)  # it must not go ahead meanwhile, which has no event
        assert not successor.done()
        process.send_signal(signal.SIGKILL)
        await successor  # nobody has collected it
    finally:
        process.kill()
        process.wait()
        ours.close()


async def test_outside_of_a_node_nothing_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TETHER_NODE_HOME", raising=False)
    monkeypatch.setenv(host_wire.NAME, "as it was")
    await remains.gone(PATH, 0.0)
    assert os.environ[host_wire.NAME] == "as it was"
