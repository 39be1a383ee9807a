"""The catalog of models, as PostgreSQL keeps it, and its history, which is only ever added to.
Changes are told on the channel `tether_models`. What a change does is decided by
`actors.core.lifecycle`, on what is read here under a lock: one registry after the other."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, Protocol

import msgspec

from actors.contracts import ModelCard, ModelChange, ModelPolicy, Stage
from actors.contracts.catalog import Change
from actors.core.policy_options import ModelPolicyOptions
from actors.core.version import Origin, Version, VersionStep
from actors.stores.keys import DatabaseConnection
from actors.stores.queries import sql
from supervision.telemetry import logs
from supervision.unreadable import UNREADABLE

LOCK: Final = 0x7E7A_2D51  # any numbers that no other program locks in this database
ARTIFACTS: Final = 0x7E7A_2D52
MAX_SHOWN: Final = 4000  # versions in one answer: all that aren't retired, and more
MAX_HISTORY: Final = 200  # lines in one answer

_PLAIN: Final = (  # columns that are fields of a card as they are
    "name", "version", "engine", "source", "context", "dtype", "created_s", "adapter",
    "gpu_class", "memory_mib", "stage_s",
)  # fmt: skip

log = logs.get(__name__)


class _Row(Protocol):
    def __getitem__(self, name: str) -> Any: ...


async def lock(connection: DatabaseConnection) -> None:
    """Until the end of the transaction nobody else changes the catalog."""
    await connection.execute(sql("lock_models"), LOCK)


async def hold_artifacts(connection: DatabaseConnection) -> bool:
    """Until the end of the transaction no collection of artifacts runs; False if one does."""
    row = await connection.fetchrow(sql("hold_artifacts"), ARTIFACTS)
    return bool(row["held"])


async def collect_artifacts(connection: DatabaseConnection) -> bool:
    """Until the end of the transaction nobody registers an artifact; False if somebody is about
    to, or collects."""
    row = await connection.fetchrow(sql("collect_artifacts"), ARTIFACTS)
    return bool(row["held"])


async def used(connection: DatabaseConnection, grace_s: float) -> frozenset[str]:
    """The sources and adapters of all versions that aren't retired, or were only just."""
    rows = await connection.fetch(sql("used_sources"), grace_s)
    return frozenset(row["source"] for row in rows if row["source"])


async def listed(connection: DatabaseConnection, refs: Iterable[str] = ()) -> tuple[Version, ...]:
    """All versions that aren't retired, and those of `refs`, in the order of names and versions."""
    return _versions(await connection.fetch(sql("list_models"), list(refs)))


async def shown(connection: DatabaseConnection, ref: str) -> tuple[Version, ...]:
    """The versions of a name, one version, or all (""); of the retired ones the last."""
    return _versions(await connection.fetch(sql("show_models"), ref, MAX_SHOWN))


async def changes(
    connection: DatabaseConnection, ref: str, since: int = 0, most: int = MAX_HISTORY
) -> tuple[ModelChange, ...]:
    """The newest changes of a name, of a version, or of all (""), after the revision `since`;
    oldest first."""
    rows = await connection.fetch(sql("show_model_changes"), ref, most, since)
    return tuple(ModelChange(**{**row, "what": Change(row["what"])}) for row in reversed(rows))


async def revision(connection: DatabaseConnection) -> int:
    """Grows with every change."""
    row = await connection.fetchrow(sql("model_revision"))
    return int(row["revision"])


async def write(connection: DatabaseConnection, steps: Iterable[VersionStep]) -> None:
    """Make these steps last; they are one transaction if the caller began one."""
    for (card, origin), line in steps:
        await connection.execute(
            sql("put_model"),
            card.name,
            card.version,
            card.engine,
            card.source,
            card.context,
            card.dtype,
            card.created_s,
            card.adapter,
            card.gpu_class,
            card.memory_mib,
            msgspec.json.encode(msgspec.structs.asdict(card.policy)).decode(),
            origin,
            card.stage.value,
            card.stage_s,
        )
        await connection.execute(
            sql("add_model_change"),
            card.name,
            card.version,
            line.what,
            line.before,
            line.after,
            line.at_s,
            line.by,
            line.note,
        )


def _versions(rows: Iterable[_Row]) -> tuple[Version, ...]:
    """A version whose policy can't be read is left out: nobody knows who may use it."""
    found = []
    for row in rows:
        try:
            policy = msgspec.json.decode(row["policy"], type=ModelPolicyOptions)
        except UNREADABLE as error:
            log.error(
                "a version is left out, for its policy can't be read",
                model=f"{row['name']}@{row['version']}",
                error=str(error),
            )
            continue
        card = ModelCard(
            **{name: row[name] for name in _PLAIN},
            policy=ModelPolicy(**msgspec.structs.asdict(policy)),
            stage=Stage(row["stage"]),
        )
        found.append(Version(card, Origin(row["origin"])))
    return tuple(found)
