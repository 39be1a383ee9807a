"""Readiness checks: gateways asked for the models that answer, or a roster."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final, TypeVar

import msgspec

from actors.contracts import (
    Catalog,
    Fleet,
    HealthReport,
    Readiness,
    Ready,
    WatchCatalog,
    WatchFleet,
)
from supervision.contracts import Contract, Tree
from supervision.errors import TetherError
from supervision.runtime import Address, Endpoint
from tether.config import Config
from tether.http.gateways import ROOT as GATEWAYS
from tether.node.plan import own_models, own_workers
from tether.node.progress import Progress

_TIMEOUT_S: Final = 5.0
_ASK_AGAIN_S: Final = 0.1
_C = TypeVar("_C", bound=Contract)


async def until_models_answer(
    endpoint: Endpoint, config: Config, seen: Callable[[], Tree], progress: Progress
) -> None:
    """Those of the node's own workers, as its gateways say, or its roster where it has none; but
    for what was retired, what no worker has room for before it is asked, and what can't be loaded
    beside others that can. `seen` gives the tree as it is."""
    wanted = {model.ref for model in own_models(config)}
    while missing := wanted - set(await _answering(endpoint, config, seen())):
        done = len(wanted) - len(missing)
        progress.working("models answer", "models", done / len(wanted))
        tree = seen()
        but = await excused(
            endpoint, tree.address("control/roster"), tree.address("control/registry")
        )
        left_out = [ref for ref in sorted(missing) if not but.of(ref)]
        if not left_out:
            break
        if but.settled >= own_workers(config) and not but.warm & missing:
            progress.say(f"without {', '.join(left_out)}: the log says why")
            break
        await asyncio.sleep(_ASK_AGAIN_S)
    progress.working("models answer", "models", 1.0)


async def _answering(endpoint: Endpoint, config: Config, tree: Tree) -> tuple[str, ...]:
    if config.has_role("door") and config.has_role("control"):
        gateways = [f"{GATEWAYS}/{number}" for number in range(config.gateway.partitions)]
        return await ready_models(endpoint, map(tree.address, gateways))
    return await models_here(endpoint, tree.address("control/roster"))


async def ready_models(endpoint: Endpoint, gateways: Iterable[str | None]) -> tuple[str, ...]:
    """The models that answer according to the gateways at these addresses; none of those that don't
    run, or don't say."""
    asked = [endpoint.ask(address, Readiness(), _TIMEOUT_S) for address in gateways if address]
    found: set[str] = set()
    for answer in await asyncio.gather(*asked, return_exceptions=True):
        if isinstance(answer, Ready):
            found.update(answer.models)
        elif not isinstance(answer, TetherError | Contract):
            raise answer
    return tuple(sorted(found))


async def models_here(endpoint: Endpoint, roster: str | None) -> tuple[str, ...]:
    """The models that workers of the endpoint's own node answer for; none without a roster."""
    return tuple({ref for worker in await _workers(endpoint, roster) for ref in worker.models})


async def excused(endpoint: Endpoint, roster: str | None, registry: str | None) -> Excused:
    """What need not answer for the node to be ready."""
    catalog = await _first(endpoint, registry, WatchCatalog(), Catalog)
    workers = await _workers(endpoint, roster)
    return Excused(
        offered=None if catalog is None else frozenset(card.ref for card in catalog.models),
        loadable=frozenset(ref for worker in workers for ref in worker.loadable),
        warm=frozenset(ref for worker in workers for ref in worker.models),
        settled=sum(bool(w.models or w.loadable) and not w.loading for w in workers),
    )


class Excused(msgspec.Struct, frozen=True):
    """`offered` are the refs of the catalog, None if it isn't known; `loadable` those that a worker
    of this node would load when asked, and has no room for now; `warm` those that they answer for.
    `settled` workers have something to answer with, and load nothing: what they don't answer for by
    then can't be had."""

    offered: frozenset[str] | None
    loadable: frozenset[str]
    warm: frozenset[str]
    settled: int

    def of(self, ref: str) -> bool:
        """Is it retired, or not loaded for want of room?"""
        return ref in self.loadable or (self.offered is not None and ref not in self.offered)


async def _workers(endpoint: Endpoint, roster: str | None) -> list[HealthReport]:
    fleet = await _first(endpoint, roster, WatchFleet(), Fleet)
    here = endpoint.address.node
    workers = () if fleet is None else fleet.workers
    return [worker for worker in workers if Address.parse(worker.address).node == here]


async def _first(
    endpoint: Endpoint, address: str | None, opening: Contract, kind: type[_C]
) -> _C | None:
    """The first item of a stream; None where nobody says it."""
    if address is None:
        return None
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            async for told in endpoint.stream(address, opening):
                return told if isinstance(told, kind) else None
    except (TetherError, TimeoutError):
        pass
    return None
