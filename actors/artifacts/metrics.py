"""Metrics of artifacts on their way from replicas and peers to the cache. Children are bound where
they are used, never per request."""

from __future__ import annotations

from supervision.telemetry.metrics import Counter, Gauge

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
artifact_peer_reads = Counter(
    "tether_artifact_peer_reads_total",
    "Blocks and manifests asked of other nodes, by node and what came: good, missing, corrupt, "
    "unreachable, busy",
    ["peer", "result"],
)
