"""`scripts/bench policies [--json] [--write]`: what policies cost a request, and what they do.

First the cost of each policy alone, of the default stack, and of the async driver around a
coroutine that does nothing; then, per fault, what other orders of the policies would do. With
--write the tables of the second part replace those in docs/policies.md, which a test compares.
Exits 1 when the default stack costs more than its target.
"""

from __future__ import annotations

import asyncio
import json
import re
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

from bench._policy_orders import FAULTS, table
from supervision.policies import (
    COMPLETED,
    Breaker,
    Budget,
    Bulkhead,
    BulkheadOptions,
    Deadline,
    DeadlineOptions,
    Go,
    Policy,
    Rate,
    RateOptions,
    Retry,
    RetryOptions,
    Stack,
    Timeout,
    TimeoutOptions,
)
from supervision.policies.async_driver import Attempt, run

DOCS = Path(__file__).parents[1] / "docs" / "policies.md"
ROUNDS, CALLS = 7, 20_000
TARGET_US = 10.0
FAST = RateOptions(per_s=1e9, burst=1e9)


def policies() -> dict[str, Policy]:
    """Each policy with its default options, and a rate that doesn't refuse the bench."""
    return {
        "rate": Rate(FAST, 0.0),
        "deadline": Deadline(DeadlineOptions()),
        "retry + budget": Retry(RetryOptions(), Random(1).random, Budget()),
        "breaker": Breaker(),
        "bulkhead": Bulkhead(BulkheadOptions()),
        "timeout": Timeout(TimeoutOptions()),
    }


def timed(work: Callable[[int], object]) -> float:
    """Microseconds of one call, the median of `ROUNDS`."""
    took = []
    for _ in range(ROUNDS):
        began = time.process_time()
        work(CALLS)
        took.append((time.process_time() - began) / CALLS * 1e6)
    return round(statistics.median(took), 2)


def alone(policy: Policy) -> Callable[[int], None]:
    """begin, admit, settle."""

    def work(calls: int) -> None:
        for number in range(calls):
            now = number * 1e-4
            guard = policy.begin()
            guard.admit(now)
            guard.settle(COMPLETED, now)

    return work


def stacked(stack: Stack) -> Callable[[int], None]:
    """The same through a `Call`."""

    def work(calls: int) -> None:
        for number in range(calls):
            now = number * 1e-4
            call = stack.begin()
            if type(call.admit(now)) is not Go:
                raise RuntimeError("a policy refused")
            call.settle(COMPLETED, now)

    return work


def driven(stack: Stack | None) -> Callable[[int], None]:
    """The async driver around nothing; without a stack, the nothing itself."""

    async def operation(attempt: Attempt | None) -> None:
        pass

    async def bare(calls: int) -> None:
        for _ in range(calls):
            await operation(None)

    async def policed(calls: int) -> None:
        assert stack is not None
        for _ in range(calls):
            await run(stack, operation)

    return lambda calls: asyncio.run((bare if stack is None else policed)(calls))


def costs() -> dict[str, float]:
    """Microseconds by subject."""

    def stack() -> Stack:
        return Stack(*policies().values())

    found = {name: timed(alone(policy)) for name, policy in policies().items()}
    found["default stack"] = timed(stacked(stack()))
    bare = timed(driven(None))
    found["async driver, default stack"] = round(timed(driven(stack())) - bare, 2)
    found["async driver, no policy"] = round(timed(driven(Stack())) - bare, 2)
    return found


def tables_in(text: str) -> dict[str, str]:
    """The tables of docs/policies.md by fault."""
    return dict(re.findall(r"<!-- orders: (\w+) -->\n(.*?)\n<!-- end -->", text, re.DOTALL))


def written(text: str, tables: dict[str, str]) -> str:
    """`text` with its tables replaced."""
    for fault, rows in tables.items():
        text = re.sub(
            rf"(<!-- orders: {fault} -->\n).*?\n?(<!-- end -->)",
            lambda match, rows=rows: f"{match[1]}{rows}\n{match[2]}",
            text,
            flags=re.DOTALL,
        )
    return text


def main(arguments: list[str]) -> int:
    """Prints the figures; 0 if the target is met."""
    found = costs()
    for subject, cost in found.items():
        row = {"bench": "policies", "subject": subject, "us": cost}
        print(json.dumps(row) if "--json" in arguments else f"{subject:28} {cost:6.2f} µs")
    tables = {fault: table(fault) for fault in FAULTS}
    if "--json" not in arguments:
        for fault, rows in tables.items():
            print(f"\n{fault}: {FAULTS[fault]}\n\n{rows}")
    if "--write" in arguments:
        DOCS.write_text(written(DOCS.read_text("utf-8"), tables), "utf-8")
    return 0 if found["default stack"] <= TARGET_US else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
