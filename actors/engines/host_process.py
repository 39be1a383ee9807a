"""The process of an engine: how it begins, and how it ended."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

import msgspec

from actors.contracts import ModelCard
from actors.engines.engine_environment import scrubbed
from actors.engines.engine_sandbox import EngineSandbox, Mode, sandbox_of
from actors.engines.factory import interpreter, kind_of, prepare
from actors.errors import ModelUnusable
from supervision.telemetry import title

END_S = 1.0
ALL, NONE = "all", "none"  # of the GPUs of the node
UNCONFINED = EngineSandbox()


def prepared(
    card: ModelCard, cache_dir: Path, mode: Mode, gpus: str
) -> tuple[ModelCard, EngineSandbox]:
    """`card` with paths of files that are there, since the engine's process may make none and see
    no others, and its sandbox. Blocks.

    Raises:
        ModelUnusable: see `factory.prepare`.
    """
    if kind_of(card).weights and (path := prepare(card, cache_dir)) is not None:
        adapter = str(Path(card.adapter).expanduser().absolute()) if card.adapter else ""
        card = msgspec.structs.replace(card, source=str(path.absolute()), adapter=adapter)
    return card, sandbox_of(card, mode, cache_dir, gpus=gpus != NONE)


def start(
    card: ModelCard, gpus: str = ALL, sandbox: EngineSandbox = UNCONFINED
) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """A process for the engine of `card`, in the environment that this needs, and our end of the
    pair on which it waits for orders. It sees these GPUs only: "all", "none", or "0,2"; and goes
    into its `sandbox` before anything else.

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
                msgspec.json.encode(sandbox).decode(),
            ],
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=scrubbed(
                os.environ,
                cache=sandbox.cache,
                temporary=sandbox.temporary,
                gpus=None if gpus == ALL else "" if gpus == NONE else gpus,
            ),
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
