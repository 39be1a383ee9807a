"""Every metric of Tether, declared once. Bind children where they are used, never per request."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

from supervision.telemetry import metric_file

metric_file.install()  # before the first metric is made

# ---- bounds: whatever can fill up says how full it is, and what it turned away


# ---- disk: what was done without

disk_full = Gauge(
    "tether_disk_full",
    "1 while the disk of data_dir lacks what the node's own PostgreSQL needs",
    multiprocess_mode="livemax",
)
unwritten = Counter(
    "tether_unwritten_total",
    "Times that something could not be written and was done without: metrics, log, audit, …",
    ["what"],
)

# ---- engines: what the model itself does


# ---- front door: what clients see


# ---- reservation: rounds of statements, and what came of them


# ---- the request path: gateway, scheduler, worker


# ---- the cluster: what nodes say to one another, and who is there


# ---- supervision: what happens in the tree


# ---- between nodes: certificates and connections


# ---- artifacts: weights on their way from the replicas to the cache


# ---- peers: artifacts that nodes of a cluster lend each other


# ---- models on workers: what is warm, and what it takes
