"""The process of an engine: how it begins, and how it ended."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from contextlib import suppress

from actors.contracts import ModelCard
from actors.engines.factory import interpreter
from actors.errors import ModelUnusable
from supervision.telemetry import title

END_S = 1.0
ALL, NONE = "all", "none"  # of the GPUs of the node


def start(card: ModelCard, gpus: str = ALL) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """A process for the engine of `card`, in the environment that this needs, and our end of the
    pair on which it waits for orders. It sees these GPUs only: "all", "none", or "0,2".

    Raises:
        ModelUnusable: it can't be started.
    """
    python = interpreter(card)
    ours, theirs = socket.socketpair()
    try:
        process = subprocess.Popen(
            [
                python,
                "-m",
                "actors.engines.host",
                str(theirs.fileno()),
                str(os.getpid()),
                title.under(f"engine {card.ref}"),
            ],
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=_environment(gpus),
        )
    except OSError as error:
        ours.close()
        raise ModelUnusable(f"the engine's process could not be started ({error})") from None
    finally:
        theirs.close()
    return process, ours


async def ending(process: subprocess.Popen[bytes]) -> str:
    """How the process ended, in words; it gets a moment to do so."""
    loop = asyncio.get_running_loop()
    with suppress(subprocess.TimeoutExpired):
        await loop.run_in_executor(None, process.wait, END_S)
    code = process.poll()
    if code is None:
        return "it hung up"
    return f"signal {-code}" if code < 0 else f"status {code}"


def _environment(gpus: str) -> dict[str, str]:
    """That of the worker, which shows the engine's figures with its own: see `Mirror`."""
    own = {k: v for k, v in os.environ.items() if k != "PROMETHEUS_MULTIPROC_DIR"}
    if gpus != ALL:
        own["CUDA_VISIBLE_DEVICES"] = "" if gpus == NONE else gpus
    return own
