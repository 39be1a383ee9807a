"""Many seeds at once, in processes."""

from __future__ import annotations

import gc
import math
import multiprocessing
import time
from collections import Counter
from functools import partial

from bench.simulation.story import Report, run

BOUND = 300  # seeds within which a planted bug must show


def _one(seed: int, bug: str) -> Report:
    report = run(seed, bug)
    if seed % 16 == 0:
        gc.collect()
    return report


def many(
    seeds: range, bug: str, jobs: int, within_s: float = math.inf
) -> tuple[list[Report], int, Counter[str]]:
    """The reports of the seeds that broke a law, how many were run, outcomes, kills; ends with
    the first breach of a planted bug, or after `within_s`."""
    failed: list[Report] = []
    outcomes: Counter[str] = Counter()
    ran = events = kills = 0
    began = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(jobs, initializer=quiet) as pool:
        for report in pool.imap_unordered(partial(_one, bug=bug), seeds, chunksize=8):
            ran += 1
            events += report.events
            kills += report.kills
            outcomes.update(report.outcomes)
            if report.fault:
                failed.append(report)
                if bug or len(failed) >= 10:
                    break
            if time.monotonic() - began > within_s:
                break
    outcomes["(events)"], outcomes["(kills)"] = events, kills
    return failed, ran, outcomes


def quiet() -> None:
    """The actors' logs would tell of every misfortune."""
    from supervision.telemetry import logs

    logs.configure("CRITICAL")


def replay(seed: int, bug: str = "") -> str:
    """The command that shows one seed again."""
    return f"scripts/prove simulation --seed {seed}" + (f" --bug {bug}" if bug else "")
