"""Introspection, the same for every actor: how it stands, its figures, its logs, a pause."""

from __future__ import annotations

import resource
from collections import Counter
from typing import TYPE_CHECKING, Final, Protocol

from prometheus_client import REGISTRY

from supervision.contracts import Contract
from supervision.contracts.operating import (
    Figure,
    Inspect,
    Inspected,
    LinkState,
    LogLevel,
    PeerState,
    Resume,
    SetLogLevel,
    ShowStats,
    Standing,
    Stats,
    Suspend,
)
from supervision.errors import BadRequest, ProtocolError
from supervision.runtime.address import Address
from supervision.telemetry import logs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from supervision.runtime.connections import Connections
    from supervision.runtime.dispatch import Dispatch
    from supervision.runtime.peer import Peer

MAX_PEERS: Final = 256  # that are shown
OWN: Final = "tether_"  # how the names of our metrics begin; the others are of the interpreter

log = logs.get(__name__)


class Introspected(Protocol):
    """What is asked of an actor for this."""

    def described(self) -> dict[str, object]: ...
    def background_names(self) -> Iterable[str]: ...


class Introspection:
    """Answers `Inspect`, `ShowStats`, `SetLogLevel`, `Suspend` and `Resume` for one actor."""

    def __init__(
        self, actor: Introspected, hub: Connections, serving: Dispatch, max_handlers: int
    ) -> None:
        self._actor = actor
        self._hub = hub
        self._serving = serving
        self._max_handlers = max_handlers

    def answer(self, msg: Contract, sender: Address) -> Contract:
        """
        Raises:
            BadRequest: there is no such level.
        """
        match msg:
            case Inspect():
                return self._inspected()
            case ShowStats():
                return Stats(figures=tuple(figures()))
            case SetLogLevel():
                return self._log(msg.level)
            case Suspend():
                self._serving.suspend()
            case Resume():
                self._serving.resume()
            case _:
                raise ProtocolError(f"operators don't ask {type(msg).__name__}")
        log.warning("standing changed", state=self._serving.state, by=str(sender))
        return Standing(state=self._serving.state)

    def _log(self, level: str) -> LogLevel:
        try:
            before = logs.set_level(level)
        except ValueError as error:
            raise BadRequest(str(error), param="level") from error
        return LogLevel(level=logs.level(), before=before)

    def _inspected(self) -> Inspected:
        hub, serving, actor = self._hub, self._serving, self._actor
        used = resource.getrusage(resource.RUSAGE_SELF)
        asks, streams = hub.waiting
        return Inspected(
            actor=type(actor).__name__,
            address=str(hub.address),
            pid=hub.address.pid,
            state=serving.state,
            path=getattr(actor, "path", ""),
            since_s=serving.since_s,
            log_level=logs.level(),
            answers=serving.answers,
            handlers=_counted(serving.busy),
            max_handlers=self._max_handlers,
            held=serving.held,
            background=_counted(actor.background_names()),
            asks=asks,
            streams=streams,
            peers=tuple(
                _shown(peer) for peer, _ in zip(hub.peers(), range(MAX_PEERS), strict=False)
            ),
            notes=tuple((name, str(value)) for name, value in actor.described().items()),
            cpu_s=used.ru_utime + used.ru_stime,
            memory_bytes=resident(),
        )


def figures() -> Iterator[Figure]:
    """All of this process's own metrics, as its node's `/metrics` sums them up."""
    for metric in REGISTRY.collect():
        if not metric.name.startswith(OWN):
            continue
        for sample in metric.samples:
            if not sample.name.endswith("_created"):
                yield Figure(
                    name=sample.name,
                    value=sample.value,
                    labels=tuple(sorted(sample.labels.items())),
                    kind=metric.type,
                )


def resident() -> int:
    """Bytes of memory that this process holds now."""
    import psutil  # 10 ms, which the start of an actor can do without

    return int(psutil.Process().memory_info().rss)


def _counted(names: Iterable[str]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(Counter(names).items()))


def _shown(peer: Peer) -> PeerState:
    if peer.connection is not None:
        state = LinkState.CONNECTED
    elif peer.dialing is not None:
        state = LinkState.DIALING
    else:
        state = LinkState.GONE if peer.closed else LinkState.WAITING
    return PeerState(
        address=str(peer.address),
        pid=peer.pid,
        state=state,
        queued=peer.queued,
        serving=len(peer.serving),
    )
