"""The rules of a configuration about several fields at once. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final
from urllib.parse import urlsplit

from actors.contracts.policies import PolicyName
from actors.core.model_options import ModelOptions, model_violations
from actors.core.policy_options import policy_violations
from supervision.settings import Problem
from tether.config.redis import redis_violations
from tether.config.sections import EVERY, Config, WorkerSection, matching
from tether.http.json_bounds import MAX_BYTES

_MIN_PEER_BANDWIDTH: Final = 1 << 20  # bytes per second
_SCHEMES: Final = ("file", "s3", "gs", "az")


def violations(
    config: Config, models: Sequence[ModelOptions | None], workers: Sequence[WorkerSection | None]
) -> Iterator[Problem]:
    """A problem for each rule that is broken. `models` and `workers` are the listed ones in the
    file's order, None standing for an entry that could not be read, about which enough was said:
    what might concern it is not judged."""
    yield from _http(config)
    yield from _stores(config)
    yield from redis_violations(config.redis)
    yield from _artifacts(config, models)
    yield from policy_violations(config.policies, "policies.")
    yield from _models(models, config.policies.order)
    yield from _workers(workers)
    if None not in models:
        yield from _offered([m for m in models if m], workers)
        if None not in workers:
            yield from _served([m for m in models if m], [w for w in workers if w])


def _http(config: Config) -> Iterator[Problem]:
    http, node = config.http, config.node
    if http.default_deadline_s > http.max_deadline_s:
        yield Problem(
            "http.default_deadline_s",
            f"{http.default_deadline_s:g} s is longer than http.max_deadline_s "
            f"({http.max_deadline_s:g} s); lower it",
        )
    if http.max_body_bytes > MAX_BYTES:
        yield Problem(
            "http.max_body_bytes",
            f"what a door takes to read a body is bounded up to {MAX_BYTES}, and this is "
            f"{http.max_body_bytes}; lower it",
        )
    if http.body_budget_bytes < http.max_body_bytes:
        yield Problem(
            "http.body_budget_bytes",
            f"{http.body_budget_bytes} is less than http.max_body_bytes ({http.max_body_bytes}); "
            "no such body could be taken: raise it",
        )
    if http.port and http.port == node.admin_port:
        yield Problem("node.admin_port", f"http.port is {http.port} too; take another")
    place = node.metrics_place
    if place is not None and place[1] > 65535:
        yield Problem("node.metrics", f"{place[1]} is no port; write one below 65536, or 0")
    if place is not None and place[1] and place[1] in (http.port, node.admin_port):
        other = "http.port" if place[1] == http.port else "node.admin_port"
        yield Problem("node.metrics", f"{other} is {place[1]} too; take another")
    for number, origin in enumerate(http.cors_origins):
        parts = urlsplit(origin)
        plain = parts.scheme in ("http", "https") and parts.netloc and not parts.path
        if origin != "*" and not plain:
            yield Problem(
                f"http.cors_origins[{number}]",
                f"{origin!r} is no origin; write it like 'https://example.org', or '*'",
            )


def _stores(config: Config) -> Iterator[Problem]:
    dsn = config.stores.postgres
    if dsn and urlsplit(dsn).scheme not in ("postgres", "postgresql"):
        yield Problem(
            "stores.postgres",
            "this is no PostgreSQL DSN; write postgresql://user:password@host:5432/name, or leave "
            "it empty for the embedded server",
        )
    jobs, ledger = config.stores.keep_jobs_days, config.stores.keep_ledger_days
    if ledger and not 0 < jobs <= ledger:
        yield Problem(
            "stores.keep_ledger_days",
            f"what was billed must be kept as long as jobs; write {jobs:g} or more, or 0 for ever"
            if jobs
            else "what was billed must be kept as long as jobs, which are kept for ever; write 0",
        )
    if 0 < jobs < 1:
        yield Problem(
            "stores.keep_jobs_days",
            "an idempotency key is known only as long as its job, and for a day at least; write 1 "
            "or more, or 0 for ever",
        )
    yield from config.answers.violations(jobs if jobs >= 1 else 0.0)


def _artifacts(config: Config, models: Sequence[ModelOptions | None]) -> Iterator[Problem]:
    artifacts = config.artifacts
    count = len(artifacts.replicas)
    for number, url in enumerate(artifacts.replicas):
        if urlsplit(url).scheme not in _SCHEMES:
            yield Problem(
                f"artifacts.replicas[{number}]",
                f"{url!r} is no store; write one of {', '.join(s + '://…' for s in _SCHEMES)}",
            )
        if url.rstrip("/") in [u.rstrip("/") for u in artifacts.replicas[:number]]:
            yield Problem(f"artifacts.replicas[{number}]", "this replica is listed twice")
    if count and not count // 2 < artifacts.quorum <= count:
        yield Problem(
            "artifacts.quorum",
            f"of {count} replicas a quorum is {count // 2 + 1} to {count}, not {artifacts.quorum}",
        )
    if 0 < artifacts.peer_bandwidth < _MIN_PEER_BANDWIDTH:
        yield Problem(
            "artifacts.peer_bandwidth",
            f"who borrows gives up below a MiB per second; write {_MIN_PEER_BANDWIDTH} or more, 0 "
            "for no limit, or peers = false",
        )
    for number, model in enumerate(models):
        for field in ("source", "adapter"):
            if model is not None and getattr(model, field).startswith("artifact:") and not count:
                path = f"models[{number}].{field}"
                yield Problem(path, "no replica has artifacts; list some in artifacts.replicas")


def _models(
    models: Sequence[ModelOptions | None], order: Sequence[PolicyName] = ()
) -> Iterator[Problem]:
    if not models:
        yield Problem("models", "no model is listed; add one under [[models]]")
    seen: dict[str, int] = {}
    for number, model in enumerate(models):
        if model is None:
            continue
        first = seen.setdefault(model.ref, number)
        if first != number:
            yield Problem(
                f"models[{number}].version",
                f"{model.ref} is listed at models[{first}] already; "
                "give it another version, or remove one",
            )
        yield from model_violations(model, f"models[{number}].", order)


def _workers(workers: Sequence[WorkerSection | None]) -> Iterator[Problem]:
    if not workers:
        yield Problem("workers", "no worker is listed; add one under [[workers]]")
    seen: dict[str, int] = {}
    for number, worker in enumerate(workers):
        for id_ in worker.ids if worker else ():
            first = seen.setdefault(id_, number)
            if first != number:
                yield Problem(
                    f"workers[{number}].id",
                    f"workers[{first}] has a worker called {id_!r} already; take another id",
                )
                break


def _offered(
    models: Sequence[ModelOptions], workers: Sequence[WorkerSection | None]
) -> Iterator[Problem]:
    listed = ", ".join(dict.fromkeys(m.name for m in models)) or "none"
    for number, worker in enumerate(workers):
        if worker is None:
            continue
        seen: set[str] = set()
        for index, name in enumerate(worker.models):
            path = f"workers[{number}].models[{index}]"
            found = {model.ref for model in matching(models, (name,))}
            if name == EVERY:
                if len(worker.models) > 1:
                    yield Problem(path, "'*' is all models; remove the others")
            elif not found:
                yield Problem(path, f"no model is called {name!r}; listed are: {listed}")
            elif found <= seen:
                yield Problem(path, f"{', '.join(sorted(found))} is named twice; remove one")
            seen |= found
        yield from _pinned(models, worker, f"workers[{number}].pinned")


def _pinned(models: Sequence[ModelOptions], worker: WorkerSection, path: str) -> Iterator[Problem]:
    runs = set(matching(models, worker.models))
    for index, name in enumerate(worker.pinned):
        if EVERY not in (name, *worker.models) and not runs & set(matching(models, (name,))):
            yield Problem(f"{path}[{index}]", f"{name!r} is none of this worker's models")
    pins = [m for m in matching(models, worker.pinned) if m in runs]
    need = sum(m.memory_mib for m in pins)
    if worker.model_memory_mib and need > worker.model_memory_mib:
        yield Problem(
            path,
            f"{', '.join(m.ref for m in pins)} need {need} MiB, and model_memory_mib is "
            f"{worker.model_memory_mib}; raise it, or pin fewer",
        )


def _served(models: Sequence[ModelOptions], workers: Sequence[WorkerSection]) -> Iterator[Problem]:
    served = {m for worker in workers for m in matching(models, worker.models)}
    for number, model in enumerate(models):
        if workers and model not in served:
            yield Problem(
                f"models[{number}]",
                f"no worker serves {model.ref}; name it in a worker's models, or remove it",
            )
