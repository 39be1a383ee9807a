"""The command `policies`: what the requests to a model pass on their way, in its order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from actors.contracts import BreakerStates, HealthReport, ShowBreakers
from actors.contracts.operating import BreakerState, PolicyState, PolicyStates, ShowPolicies
from tether.admin.names import nearest
from tether.admin.node import NodeClient
from tether.admin.output import Output, table
from tether.admin.refused import CommandRefused
from tether.admin.traffic import SCHEDULER, fleet, of_total, seen_by_gateways

COLUMNS = ("model", "place", "policy", "at", "options", "from", "state")

Words = list[str]


async def policies(node: NodeClient, words: Words) -> Output:
    """Of one version, the versions of a name, or all models: what each gateway has a request pass,
    outermost first, then the breakers of the scheduler, then the slots of the workers."""
    asked = words[0] if words else ""
    found = await seen_by_gateways(node, ShowPolicies(model_ref=asked), PolicyStates)
    refs = dict.fromkeys(state.model_ref for _, states in found for state in states.policies)
    if asked and not refs:
        known = await seen_by_gateways(node, ShowPolicies(), PolicyStates)
        models = dict.fromkeys(state.model_ref for _, all_ in known for state in all_.policies)
        raise CommandRefused(
            f"no model is called {asked!r}; {nearest(asked, list(models), '`policies` shows all')}",
            code=2,
        )
    breakers = await node.ask(await node.at(SCHEDULER), ShowBreakers(), BreakerStates)
    workers = sorted((await fleet(node)).workers, key=lambda report: report.worker_id)
    rows: list[dict[str, Any]] = []
    for ref in refs:
        places = 0
        for path, states in found:
            passed = [state for state in states.policies if state.model_ref == ref]
            rows += (_at_gateway(path, number, state) for number, state in enumerate(passed, 1))
            places = max(places, len(passed))
        rows += _at_scheduler(ref, places + 1, breakers.breakers)
        rows += _at_workers(ref, places + 2, workers)
    shown = table(COLUMNS, rows, empty="no model is offered")
    here = sum(len(states.policies) for _, states in found)
    return of_total(shown, sum(states.total for _, states in found) + len(rows) - here)


def _at_gateway(path: str, place: int, state: PolicyState) -> dict[str, Any]:
    return {
        "model": state.model_ref,
        "place": place,
        "policy": state.name,
        "at": path,
        "options": dict(state.options),
        "from": "its policy" if state.own else "[policies]",
        "state": state.state,
    }


def _at_scheduler(
    ref: str, place: int, breakers: tuple[BreakerState, ...]
) -> Iterator[dict[str, Any]]:
    for breaker in breakers:
        if breaker.model_ref == ref:
            automatic = breaker.mode == "automatic"
            yield {
                "model": ref,
                "place": place,
                "policy": "breaker",
                "at": SCHEDULER,
                "options": {"worker": breaker.worker_id},
                "from": "",
                "state": f"{breaker.state if automatic else breaker.mode}, "
                f"{breaker.failed} of {breaker.calls} failed",
            }


def _at_workers(ref: str, place: int, workers: list[HealthReport]) -> Iterator[dict[str, Any]]:
    for report in workers:
        if ref in (*report.models, *report.loading, *report.loadable):
            yield {
                "model": ref,
                "place": place,
                "policy": "bulkhead",
                "at": report.worker_id,
                "options": {"at_once": report.slots},
                "from": "[[workers]]",
                "state": f"{report.running} inside, {report.queued} wait",
            }
