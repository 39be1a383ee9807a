"""The commands that look at the work: `workers`, `leases`, `sessions`, `trace`, `breaker ls`."""

from __future__ import annotations

import asyncio
import uuid
from datetime import datetime
from typing import Any, Final, TypeVar

from actors.contracts import BreakerStates, Fleet, ShowBreakers, WatchFleet
from actors.contracts.operating import FindRequest, SessionState, SessionStates, ShowSessions
from actors.stores.queries import sql
from supervision.contracts import Contract
from supervision.errors import TetherError
from tether.admin.node import ASK_S, NodeClient
from tether.admin.output import Output, age, fields, plain, size, table, together
from tether.admin.refused import CommandRefused

MAX_LEASES: Final = 1000
SCHEDULER: Final = "control/scheduler"
ROSTER: Final = "control/roster"
GATEWAYS: Final = "control/gateways"

Words = list[str]
_T = TypeVar("_T", bound=Contract)


async def fleet(node: NodeClient) -> Fleet:
    """The workers as the roster sees them.

    Raises:
        Refused: there is no roster just now.
        TetherError: it doesn't answer.
    """
    roster = await node.at(ROSTER)
    stream = node.endpoint.stream(roster, WatchFleet())
    try:
        async with asyncio.timeout(ASK_S):
            found = await anext(stream)
    except TimeoutError:
        raise CommandRefused("the roster does not answer; try again") from None
    finally:
        await stream.aclose()
    if not isinstance(found, Fleet):
        raise CommandRefused("the node is of another release; use the `tether` that started it")
    return found


async def workers(node: NodeClient, words: Words) -> Output:
    """All workers, as the roster sees them."""
    found = await fleet(node)
    rows = [
        {
            "id": report.worker_id,
            "state": _standing(report.worker_id in found.suspects, report.draining),
            "node": report.node_id,
            "region": report.region,
            "running": report.running,
            "slots": report.slots,
            "queued": report.queued,
            "tokens/s": report.tokens_per_s,
            "memory": size(report.memory_bytes),
            "models": list(report.models),
            "cold": [f"{ref} (loading)" for ref in report.loading] + list(report.loadable),
            **{k: v for k, v in plain(report).items() if k in _MORE},
        }
        for report in sorted(found.workers, key=lambda report: report.worker_id)
    ]
    columns = (
        "id", "state", "node", "region", "running", "slots", "queued", "tokens/s", "memory",
        "models", *(("cold",) if any(row["cold"] for row in rows) else ()),
    )  # fmt: skip
    return table(columns, rows, empty="no worker has reported; see `tree`")


_MORE: Final = frozenset({
    "address", "epoch", "sequence", "gpu_class", "draining", "memory_bytes", "loading", "loadable",
    "tokens_per_s", "model_bytes", "budget_bytes",
})  # fmt: skip


def _standing(suspect: bool, draining: bool) -> str:
    return "suspect" if suspect else "draining" if draining else "ready"


async def leases(node: NodeClient, words: Words) -> Output:
    """The leases, those first that end first."""
    rows = await node.rows(sql("list_leases"), MAX_LEASES)
    shown = [
        {
            "job": row["job_id"],
            "tenant": row["tenant_id"],
            "model": row["model_ref"],
            "worker": row["worker_id"],
            "fence": row["fence"],
            "attempt": row["attempt"],
            "age": age(row["age_s"]),
            "ends in": age(max(0.0, row["ends_in_s"])),
            "age_s": row["age_s"],
            "ends_in_s": row["ends_in_s"],
        }
        for row in rows
    ]
    columns = ("job", "tenant", "model", "worker", "fence", "attempt", "age", "ends in")
    return of_total(table(columns, shown, empty="no lease"), rows[0]["total"] if rows else 0)


async def sessions(node: NodeClient, words: Words) -> Output:
    """The requests that run, as the gateways hold them."""
    found = await seen_by_gateways(node, ShowSessions(), SessionStates)
    rows = [row for path, states in found for row in _session_rows(path, states)]
    columns = (
        "request", "tenant", "state", "model", "worker", "tokens", "listeners", "age", "job",
    )  # fmt: skip
    total = sum(states.total for _, states in found)
    return of_total(table(columns, rows, empty="no request runs"), total)


def of_total(shown: Output, total: int) -> Output:
    """A list that is a part of `total` says so."""
    if total <= len(shown.rows):
        return shown
    return Output(parts=(*shown.parts, f"… {len(shown.rows)} of {total}"), rows=shown.rows)


def _session_rows(path: str, states: SessionStates) -> list[dict[str, Any]]:
    return [_session_row(path, state) for state in states.sessions]


def _session_row(path: str, state: SessionState) -> dict[str, Any]:
    return {
        "request": state.request_id,
        "tenant": state.tenant_id,
        "state": state.state,
        "model": state.model_ref,
        "worker": state.worker_id,
        "tokens": state.tokens,
        "listeners": state.listeners,
        "age": age(state.age_s),
        "job": state.job_id,
        "gateway": path,
        "prompt_tokens": state.prompt_tokens,
        "age_s": round(state.age_s, 3),
        "explicit": state.explicit,
    }


async def seen_by_gateways(
    node: NodeClient, question: Contract, answered: type[_T]
) -> list[tuple[str, _T]]:
    """What all gateways answer, by path; one that is gone or hangs is left out, unless all are."""
    gateways = (await node.look()).under(GATEWAYS)

    async def one(address: str) -> _T | TetherError:
        try:
            return await node.ask(address, question, answered)
        except TetherError as error:
            return error

    answers = await asyncio.gather(*(one(gateway.address) for gateway in gateways))
    good = [
        (gateway.path, answer)
        for gateway, answer in zip(gateways, answers, strict=True)
        if isinstance(answer, answered)
    ]
    if not good:
        errors = [answer for answer in answers if isinstance(answer, TetherError)]
        raise errors[0] if errors else CommandRefused("no gateway runs just now; see `tree`")
    return good


async def trace(node: NodeClient, words: Words) -> Output:
    """All that is known of one request: its session, its job, its lease, its bill, its worker."""
    name = words[0]
    found = await seen_by_gateways(node, FindRequest(request_id=name), SessionStates)
    live = [(path, state) for path, states in found for state in states.sessions]
    ids = {state.job_id: None for _, state in live}
    rows: list[dict[str, Any]] = []
    if node.local:
        rows = await node.rows(sql("trace_job"), [*ids, *_uuids(name)], name)
    if not live and not rows:
        raise CommandRefused(
            f"nobody knows a request {name!r}: give the x-request-id of its answer (the gateways "
            "remember the last 2,048 of those that clients chose themselves), its "
            "Idempotency-Key, or its job"
        )
    workers = {report.worker_id: report for report in (await fleet(node)).workers}
    parts: list[Output] = []
    for row in rows:
        job = {key: _text(value) for key, value in row.items()}
        session = next(((p, s) for p, s in live if s.job_id == job["job"]), None)
        if session is not None:
            path, state = session
            job |= {"request": state.request_id, "session": state.state, "gateway": path}
            job |= {"listeners": state.listeners, "tokens_so_far": state.tokens}
        worker = workers.get(job["worker"])
        job["worker_state"] = (
            "gone"
            if worker is None
            else "draining"
            if worker.draining
            else "the same"
            if worker.address == job["worker_address"]
            else "restarted since"
        )
        parts.append(fields(job))
    known = {row["job"] for row in rows}
    parts += [
        fields({"job": "", **_session_row(path, state)})
        for path, state in live
        if state.job_id not in known
    ]
    return together(parts)


def _uuids(name: str) -> list[str]:
    try:
        return [str(uuid.UUID(name))]
    except ValueError:
        return []


def _text(value: Any) -> Any:
    return value.isoformat(timespec="milliseconds") if isinstance(value, datetime) else value


async def breakers(node: NodeClient) -> Output:
    """All breakers of the scheduler."""
    found = await node.ask(await node.at(SCHEDULER), ShowBreakers(), BreakerStates)
    return shown_breakers(found)


def shown_breakers(found: BreakerStates) -> Output:
    """Breakers as a table."""
    rows = [
        {
            "worker": state.worker_id,
            "model": state.model_ref or "(all)",
            "mode": state.mode,
            "state": state.state,
            "calls": state.calls,
            "failed": state.failed,
            "until_s": state.until_s,
        }
        for state in (*found.workers, *found.breakers)
    ]
    columns = ("worker", "model", "mode", "state", "calls", "failed")
    return table(columns, rows, empty="no breaker; there is one for each model of each worker")
