"""Every metric of Tether, declared once. Bind children where they are used, never per request."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

# ---- bounds: whatever can fill up says how full it is, and what it turned away

bound_used = Gauge(
    "tether_bound_used",
    "Entries held in something bounded",
    ["bound"],
    multiprocess_mode="livesum",
)
bound_refused = Counter(
    "tether_bound_refused_total", "Entries turned away because a bound was reached", ["bound"]
)

# ---- engines: what the model itself does

engine_tokens = Counter(
    "tether_engine_tokens_total",
    "Tokens taken in (prompt), those of them that were not computed again (reused), and put out "
    "(output)",
    ["model", "kind"],
)
engine_rows = Gauge(
    "tether_engine_rows",
    "Answers in the batch (running) and before it (queued)",
    ["model", "state"],
    multiprocess_mode="livesum",
)
engine_cache_bytes = Gauge(
    "tether_engine_cache_bytes",
    "Bytes of keys and values held",
    ["model"],
    multiprocess_mode="livesum",
)
engine_prefix_bytes = Gauge(
    "tether_engine_prefix_bytes",
    "Bytes of keys and values kept of finished answers, at most prefix_mib of the worker",
    ["model"],
    multiprocess_mode="livesum",
)
engine_prefix_prompts = Counter(
    "tether_engine_prefix_prompts_total",
    "Prompts of which a beginning had been computed before (hit) or had not (miss)",
    ["model", "outcome"],
)
engine_prefix_evicted = Counter(
    "tether_engine_prefix_evicted_tokens_total",
    "Tokens of finished answers that were given up because the bound was reached",
    ["model"],
)
engine_step_seconds = Histogram(
    "tether_engine_step_seconds",
    "Duration of one step of the batch",
    ["model"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0),
)
engine_restarts = Counter(
    "tether_engine_restarts_total", "Engines started anew after their process was lost", ["model"]
)

# ---- front door: what clients see

http_requests = Counter("tether_http_requests_total", "HTTP requests answered", ["route", "status"])
http_seconds = Histogram(
    "tether_http_request_seconds",
    "From the head of a request to the end of its answer",
    ["route"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 120),
)
http_first_chunk_seconds = Histogram(
    "tether_http_first_chunk_seconds",
    "From the head of a request to the first text of its stream",
    ["route"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 120),
)
http_streams_broken = Counter(
    "tether_http_streams_broken_total", "Streams that ended with an error event", ["code"]
)
http_streams_reopened = Counter(
    "tether_http_streams_reopened_total", "Answers taken up again after their gateway was lost"
)
http_hangups = Counter(
    "tether_http_hangups_total", "Clients that left before their answer was complete"
)

# ---- reservation: rounds of statements, and what came of them

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
reservation_expired = Counter(
    "tether_reservation_expired_total", "Jobs whose lease ran out and that nobody settled"
)
reservation_pruned = Counter(
    "tether_reservation_pruned_total", "Rows deleted because they were kept long enough", ["table"]
)

# ---- the request path: gateway, scheduler, worker

requests = Counter(
    "tether_requests_total", "Requests that a gateway is done with, by outcome", ["outcome"]
)
request_tokens = Counter(
    "tether_request_tokens_total", "Tokens of completed and cancelled requests", ["kind"]
)
request_resumes = Counter(
    "tether_request_resumes_total", "Attempts after the first, by why the one before ended", ["why"]
)
first_token_seconds = Histogram(
    "tether_first_token_seconds",
    "From a request's arrival at the gateway to its first token",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
queue_wait_seconds = Histogram(
    "tether_queue_wait_seconds",
    "How long requests waited for a worker, those that had to",
    buckets=(0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 15, 60),
)
settles = Counter("tether_settles_total", "Jobs closed, by who closed them and how", ["by", "how"])
breaker_state = Gauge(
    "tether_breaker_state",
    "Breaker of a worker's model: 0 closed, 1 half open, 2 open, 3 forced open, 4 disabled",
    ["worker", "model"],
    multiprocess_mode="livemax",
)
fleet_workers = Gauge(
    "tether_fleet_workers",
    "Workers that are alive, as the roster sees them",
    multiprocess_mode="livesum",
)

# ---- the cluster: what nodes say to one another, and who is there

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
    "Models of other nodes' workers that have another digest than this node's of the same name",
    multiprocess_mode="livesum",
)
model_changes = Counter(
    "tether_model_changes_total",
    "Changes of the catalog made here: registered, changed, promoted, rolled_back, retired",
    ["what"],
)
orders = Counter(
    "tether_orders_total", "Orders to other nodes: given, carried_out, unknown", ["result"]
)

# ---- supervision: what happens in the tree

supervision_events = Counter(
    "tether_supervision_events_total", "Events of the tree, by their name", ["event"]
)
child_restarts = Counter("tether_child_restarts_total", "Restarts of a child", ["path"])
child_excused = Counter(
    "tether_child_excused_total",
    "Restarts that count towards no intensity, by what the child was ended by: disk_full",
    ["path", "excuse"],
)
child_exits = Counter(
    "tether_child_exits_total", "Processes of a child that ended, by why", ["path", "reason"]
)
child_kills = Counter("tether_child_kills_total", "SIGKILLs that a supervisor sent", ["path"])
child_start_seconds = Histogram(
    "tether_child_start_seconds",
    "From the spawn of a child's process until it was ready",
    buckets=(0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 2, 5, 10, 30, 60, 300),
)
spare_starts = Counter(
    "tether_spares_total",
    "Actors made of a spare (used), spawned because no spare was warm (missed); spares that ended "
    "unused (lost)",
    ["outcome"],
)

# ---- between nodes: certificates and connections

wire_refused = Counter(
    "tether_wire_refused_total",
    "Connections that were closed because that node speaks another version of the wire",
    ["node"],
)
tls_handshakes = Counter(
    "tether_tls_handshakes_total",
    "Handshakes with other nodes, by who began them (in, out) and what came of them",
    ["side", "result"],
)
tls_closed = Counter(
    "tether_tls_closed_total",
    "Connections with other nodes that were closed, by what was wrong with the certificate",
    ["reason"],
)
tls_moves = Counter(
    "tether_tls_moves_total",
    "Conversations that went over to a new connection before their certificate ended",
    ["result"],
)
tls_left = Counter(
    "tether_tls_left_total", "Connections with other nodes that neither end had any use for"
)
tls_certificate_ends = Gauge(
    "tether_tls_certificate_ends_seconds",
    "When the certificate in use ends, in seconds since the epoch",
    multiprocess_mode="livemin",
)
tls_identity_failures = Counter(
    "tether_tls_identity_failures_total", "Times that the files of the identity were of no use"
)

# ---- artifacts: weights on their way from the replicas to the cache

artifact_reads = Counter(
    "tether_artifact_reads_total",
    "Objects asked for, by replica and what came: good, missing, corrupt, unreachable",
    ["replica", "result"],
)
artifact_cache = Counter(
    "tether_artifact_cache_total",
    "What the cache on disk did: hit, miss, checked, evicted, damaged, full",
    ["event"],
)
artifact_cache_bytes = Gauge(
    "tether_artifact_cache_bytes",
    "Bytes of models in the cache on disk, those on their way included",
    multiprocess_mode="livemax",
)
artifact_refused = Counter(
    "tether_artifact_refused_total", "Artifacts that were not let in, by why", ["reason"]
)
artifact_untrusted = Counter(
    "tether_artifact_untrusted_total", "Artifacts that were let in unseen, since trust is off"
)

# ---- peers: artifacts that nodes of a cluster lend each other

artifact_peer_reads = Counter(
    "tether_artifact_peer_reads_total",
    "Blocks and manifests asked of other nodes, by node and what came: good, missing, corrupt, "
    "unreachable, busy",
    ["peer", "result"],
)
artifact_lent = Counter(
    "tether_artifact_lent_total",
    "What other nodes asked this one for: lent, absent, refused, busy, stalled, broken_off",
    ["result"],
)
artifact_lent_bytes = Counter("tether_artifact_lent_bytes_total", "Bytes of artifacts lent")
artifact_lent_wait = Counter(
    "tether_artifact_lent_wait_seconds_total",
    "Seconds that lending has waited for artifacts.peer_bandwidth",
)

# ---- models on workers: what is warm, and what it takes

warm_models = Gauge(
    "tether_warm_models",
    "Models of workers, by state: warm, loading, loadable, failing",
    ["state"],
    multiprocess_mode="livesum",
)
warm_bytes = Gauge(
    "tether_warm_bytes",
    "Bytes that workers' models take (held) and may take (budget; 0 is no limit)",
    ["kind"],
    multiprocess_mode="livesum",
)
warm_loads = Counter(
    "tether_warm_loads_total", "Loads of models, by what came: loaded, failed", ["model", "result"]
)
warm_load_seconds = Histogram(
    "tether_warm_load_seconds",
    "From the begin of a model's load to its first answer",
    buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600),
)
warm_evictions = Counter(
    "tether_warm_evictions_total",
    "Models let go, by why: room, retired, changed",
    ["model", "why"],
)
worker_tokens_rate = Gauge(
    "tether_worker_tokens_per_second",
    "Output tokens per second of the workers' engines over the last ten seconds",
    multiprocess_mode="livesum",
)
