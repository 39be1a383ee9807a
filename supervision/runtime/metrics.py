"""Metrics of spares, and of connections between nodes. Children are bound where they are used,
never per request."""

from __future__ import annotations

from supervision.telemetry.metrics import Counter, Gauge

unwritten = Counter(
    "tether_unwritten_total",
    "Times that something could not be written and was done without: metrics, log, audit, …",
    ["what"],
)
spare_starts = Counter(
    "tether_spares_total",
    "Actors made of a spare (used), spawned because no spare was warm (missed); spares that ended "
    "unused (lost)",
    ["outcome"],
)
wire_refused = Counter(
    "tether_wire_refused_total",
    "Connections that were closed because that node speaks another version of the wire",
    ["node"],
)
contracts_refused = Counter(
    "tether_contracts_refused_total",
    "Contracts that were refused because who said them is not of their audience, by contract and "
    "the node of who did",
    ["contract", "node"],
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
system_refused = Counter(
    "tether_system_refused_total",
    "Messages of Thespian's that were refused as no such message (malformed) or as not for their "
    "sender to say (sender), and those that were not sent to another node (unsent)",
    ["reason"],
)
