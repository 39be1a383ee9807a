"""Metrics of rounds of statements, and of what came of them. Children are bound where they are
used, never per request."""

from __future__ import annotations

from supervision.telemetry.metrics import Counter, Gauge, Histogram

reservation_round_items = Histogram(
    "tether_reservation_round_items",
    "Reserves and settles of one round",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
)
reservation_round_seconds = Histogram(
    "tether_reservation_round_seconds",
    "Time that PostgreSQL took for a round",
    buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0),
)
reservation_retried = Counter(
    "tether_reservation_rounds_retried_total", "Rounds sent again because the connection was lost"
)
reservation_known = Counter(
    "tether_reservation_known_total", "Reserves whose retry token was taken by an older job"
)
reservation_stale = Counter(
    "tether_reservation_stale_settles_total", "Settles that changed nothing: late, or repeated"
)
answers_kept = Counter("tether_answers_kept_total", "Finished answers that were kept in the store")
answers_kept_bytes = Counter(
    "tether_answers_kept_bytes_total", "Bytes of finished answers that were kept, compressed"
)
answers_stored = Gauge(
    "tether_answers_stored",
    "Finished answers in the store, as the cluster's one pruner has last seen",
    multiprocess_mode="livemax",
)
answers_stored_bytes = Gauge(
    "tether_answers_stored_bytes",
    "Bytes of finished answers in the store, compressed",
    multiprocess_mode="livemax",
)
reservation_expired = Counter(
    "tether_reservation_expired_total", "Jobs whose lease ran out and that nobody settled"
)
reservation_renewed = Counter(
    "tether_reservation_renewed_total", "Renewals of leases that were asked for"
)
reservation_orphans = Counter(
    "tether_reservation_orphan_leases_total", "Leases of no running job that the sweep deleted"
)
reservation_pruned = Counter(
    "tether_reservation_pruned_total",
    "Rows of jobs, and months of the ledger, deleted because they were kept long enough",
    ["table"],
)
budget_refusals = Counter(
    "tether_budget_refusals_total", "Requests that a budget had no room for, by its unit", ["unit"]
)
budget_events = Counter(
    "tether_budget_events_total", "Shares of budgets that were reached, by the share", ["share"]
)
ledger_sealed = Counter("tether_ledger_sealed_entries_total", "Entries that were sealed in blocks")
ledger_blocks = Counter("tether_ledger_blocks_total", "Blocks of the ledger that were sealed")
