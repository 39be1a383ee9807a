"""The plan of a node's front doors: from the configuration to their specs.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterator

from supervision.spec import ChildSpec
from tether.config import Config
from tether.http.options import DoorOptions
from tether.http.server_actor import FrontDoor


def doors(config: Config, handover: str, storage: str, port: int) -> Iterator[ChildSpec]:
    """One process each. `handover` is the socket at which the launcher hands out the listening one,
    `storage` the folder of the node's own database (empty: it has none)."""
    http = config.http
    certificate, key = map(str, config.tls_files or ("", ""))
    options = DoorOptions(
        host=http.host,
        port=port,
        handover=handover,
        gateways=config.gateway.partitions,
        cors_origins=http.cors_origins,
        max_body_bytes=http.max_body_bytes,
        body_budget_bytes=http.body_budget_bytes,
        max_strangers=http.max_strangers,
        max_strangers_per_address=http.max_strangers_per_address,
        default_deadline_s=http.default_deadline_s,
        max_deadline_s=http.max_deadline_s,
        storage=storage,
        certificate=certificate,
        key=key,
        tls_minimum=http.tls.minimum if http.tls else "1.2",
        elsewhere=not config.has_role("control"),
        region=config.cluster.region,
    )
    for number in range(http.processes):
        yield FrontDoor.spec(options, id=str(number), shutdown=config.node.stop_deadline_s)
