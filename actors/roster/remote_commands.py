"""Commands to other nodes: given by processes of the own node, carried out here for others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from actors.contracts import Command, HealthReport, ModelsChanged, Order
from actors.contracts.operating import Drain
from actors.roster import metrics
from actors.roster.announcement import MAX_ORDERS, control_topic
from supervision.child import Supervised
from supervision.errors import BadRequest, Overloaded, TetherError
from supervision.telemetry import bounds, logs
from supervision.telemetry.bounded_log import BoundedLog

REGISTRY: Final = "control/registry"
MODELS_CHANGED: Final = "models_changed"
DRAIN: Final = "drain"
UNDRAIN: Final = "undrain"
VERBS: Final = (MODELS_CHANGED, DRAIN, UNDRAIN)
KEPT_S: Final = 60.0  # an order is repeated for so long, for nodes that are away
ASK_S: Final = 5.0

log = logs.get(__name__)
heard = BoundedLog(__name__)


class RemoteCommands:
    """
    Args:
        workers: those of this node, by the ids that they have here.
        changed: called when this node begins or ends to drain.
    """

    def __init__(
        self,
        actor: Supervised,
        node_id: str,
        region: str,
        workers: Callable[[], tuple[HealthReport, ...]],
        changed: Callable[[], object],
    ) -> None:
        self._actor = actor
        self._node_id = node_id
        self._region = region
        self._workers = workers
        self._changed = changed
        self._given: dict[int, tuple[Order, float]] = {}
        self._numbers = 0
        self.draining = False
        self._drained: dict[str, None] = {}  # workers of ours, one by one
        self._counters = {
            result: metrics.orders.labels(result) for result in ("given", "carried_out", "unknown")
        }

    # ---- giving

    def give(self, command: Command, now: float) -> Order:
        """An order to all of a region, carried out here as well.

        Raises:
            BadRequest: there is no such order.
            Overloaded: too many were given within a minute.
        """
        if command.verb not in VERBS:
            raise BadRequest(
                f"there is no order {command.verb!r}; it is one of {', '.join(VERBS)}",
                param="verb",
            )
        if command.verb != MODELS_CHANGED and not command.target:
            raise BadRequest(f"{command.verb} needs a target: NODE, or NODE/WORKER", param="target")
        self._forget(now)
        if len(self._given) >= MAX_ORDERS:
            bounds.refused.labels("roster_orders").inc()
            raise Overloaded(f"{MAX_ORDERS} orders were given within {KEPT_S:g} s; try again later")
        self._numbers += 1
        order = Order(
            topic=control_topic(command.region),
            number=self._numbers,
            verb=command.verb,
            target=command.target,
        )
        self._given[order.number] = (order, now + KEPT_S)
        self._counters["given"].inc()
        self.obey(order, self._node_id)
        return order

    def given(self, now: float) -> Iterator[Order]:
        """Those that are still repeated."""
        self._forget(now)
        return (order for order, _ in self._given.values())

    def _forget(self, now: float) -> None:
        for number in [n for n, (_, until) in self._given.items() if until <= now]:
            del self._given[number]

    # ---- carrying out

    def obey(self, order: Order, by: str) -> None:
        """Carry an order out, if it concerns this node. Safe to see twice."""
        if order.topic not in (control_topic(""), control_topic(self._region)):
            return
        if order.verb == MODELS_CHANGED:
            self._tell_registry()
        elif order.verb in (DRAIN, UNDRAIN):
            node, _, worker = order.target.partition("/")
            if node != self._node_id:
                return
            self._drain(worker, on=order.verb == DRAIN)
        else:
            self._counters["unknown"].inc()
            heard.warning(
                "an order that this release doesn't know", by, verb=order.verb[:64], by=by
            )
            return
        self._counters["carried_out"].inc()
        heard.info(
            "an order is carried out",
            (by, order.verb),
            verb=order.verb,
            target=order.target[:200],
            by=by,
        )

    def _tell_registry(self) -> None:
        registry = self._actor.tree.address(REGISTRY)
        if registry is not None:  # else it is about to start, and reads everything then
            self._actor.tell(registry, ModelsChanged())

    def _drain(self, worker_id: str, *, on: bool) -> None:
        if worker_id:
            if on and len(self._drained) < MAX_ORDERS:
                self._drained[worker_id] = None
            elif not on:
                self._drained.pop(worker_id, None)
        else:
            self.draining = on
            if not on:
                self._drained.clear()
        for worker in self._workers():
            if worker_id in ("", worker.worker_id):
                self._say(worker, on=on)
        self._changed()

    def seen(self, worker: HealthReport) -> None:
        """A worker of ours has started: it may have to drain like the others."""
        if (self.draining or worker.worker_id in self._drained) and not worker.draining:
            self._say(worker, on=True)

    def _say(self, worker: HealthReport, *, on: bool) -> None:
        self._actor.background(self._ask(worker, on), name=f"drain {worker.worker_id}")

    async def _ask(self, worker: HealthReport, on: bool) -> None:
        try:
            await self._actor.ask(worker.address, Drain(on=on), ASK_S)
        except TetherError as error:
            log.warning(
                "a worker could not be told to drain", worker=worker.worker_id, error=error.message
            )
