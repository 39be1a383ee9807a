"""Metrics of the front door: what clients see. Children are bound where they are used, never per
request."""

from __future__ import annotations

from supervision.telemetry.metrics import Counter, Gauge, Histogram

disk_full = Gauge(
    "tether_disk_full",
    "1 while the disk of data_dir lacks what the node's own PostgreSQL needs",
    multiprocess_mode="livemax",
)
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
handshakes = Counter(
    "tether_http_handshakes_total",
    "TLS handshakes with clients, by what came of them: good; refused (no version or cipher that "
    "both speak, or no TLS at all); timeout; crowded_out; left",
    ["result"],
)
certificate_ends = Gauge(
    "tether_http_certificate_ends_seconds",
    "When the certificate of the front doors ends, in seconds since the epoch",
    ["certificate"],  # so that there is none where there is no certificate
    multiprocess_mode="livemin",
)
certificate_loads = Counter(
    "tether_http_certificate_loads_total", "New certificates that a front door took over"
)
certificate_failures = Counter(
    "tether_http_certificate_failures_total",
    "New certificates that a front door kept out, for they could not be used",
)
