"""Metrics of what nodes say to one another, and of who is there. Children are bound where they are
used, never per request."""

from __future__ import annotations

from supervision.telemetry.metrics import Counter, Gauge

fleet_workers = Gauge(
    "tether_fleet_workers",
    "Workers that are alive, as the roster sees them",
    multiprocess_mode="livesum",
)
announcements_refused = Counter(
    "tether_announcements_refused_total",
    "Announcements of other nodes that didn't count, by why",
    ["reason"],
)
announcements_taken = Counter(
    "tether_announcements_taken_total", "Announcements of other nodes that counted"
)
announcements_sent = Counter(
    "tether_announcements_sent_total",
    "Announcements brought to other nodes, by what came of them: taken, refused, failed",
    ["result"],
)
cluster_nodes = Gauge(
    "tether_cluster_nodes",
    "Other nodes of the configuration, by how they stand: alive, suspect, gone, unknown",
    ["health"],
    multiprocess_mode="livesum",
)
cluster_guarding = Gauge(
    "tether_cluster_guarding",
    "1 while silent nodes are kept as suspects, since too many went silent at once",
    multiprocess_mode="livemax",
)
fleet_conflicts = Gauge(
    "tether_fleet_conflicts",
    "Models of other nodes' workers that aren't used: they have another digest than is meant here",
    multiprocess_mode="livesum",
)
claims_refused = Counter(
    "tether_fleet_claims_refused_total",
    "What other nodes' workers said and wasn't taken: a name that is another's, a model of another "
    "digest: name, digest",
    ["what"],
)
orders = Counter(
    "tether_orders_total", "Orders to other nodes: given, carried_out, unknown", ["result"]
)
revocations_unkept = Gauge(
    "tether_revocations_unkept",
    "1 while a list of revoked certificates counts, and can't be written into data_dir",
    multiprocess_mode="livemax",
)
