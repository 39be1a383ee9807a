"""The protocol of a session's host: what the session of a request needs of its gateway."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Protocol, TypeVar

from actors.contracts import ModelCard, Place, Placed
from supervision.contracts import Contract
from supervision.errors import TetherError
from supervision.runtime.cancel_cause import CancelCause

_Held_contra = TypeVar("_Held_contra", contravariant=True)


class Chunks(Protocol):
    """A stream from a worker: read by one task at a time, closed from anywhere."""

    def __aiter__(self) -> AsyncIterator[Any]: ...
    async def __anext__(self) -> Any: ...
    def close(self, why: CancelCause = ...) -> None: ...


class SessionHost(Protocol[_Held_contra]):
    """A gateway is one, of sessions of that class."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...

    async def place(self, place: Place, timeout: float) -> Placed:
        """Ask the scheduler."""

    def stream(self, address: Any, contract: Contract, credit: int = 64) -> Any:
        """Open a stream at a worker."""

    async def said_again(self, session: _Held_contra) -> bool:
        """Its job was answered before: says into its journal what the store has kept of that, and
        closes it. False, and `past.billed` is known, where that is nothing."""

    def placed(self, worker_address: str) -> None:
        """Something runs there now."""

    def released(self, job_id: str, worker_id: str, *, ok: bool, neutral: bool = False) -> None:
        """The slot is free; without a worker, whatever this job was given is to be undone.
        `ok` and `neutral` as in `Finished`."""

    def cold(self, worker_address: str, model_ref: str) -> bool:
        """That worker doesn't answer for this model yet, as far as is known."""

    def another(self, session: _Held_contra) -> ModelCard | None:
        """What the name that it has asked for stands for now, if that is another version."""

    def grew(self, session: _Held_contra) -> None:
        """Its journal has more than before."""

    def moved(self, session: _Held_contra, why: TetherError) -> None:
        """It goes to another worker."""

    def ended(self, session: _Held_contra) -> None:
        """It has its outcome."""
