"""The registry: told that the catalog has changed, and asked to change it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest

from actors.artifacts.options import ArtifactOptions
from actors.contracts import (
    Catalog,
    Command,
    Commanded,
    ModelCard,
    ModelPolicy,
    ModelsChanged,
    ModelsShown,
    MoveModel,
    RegisterModel,
    ShowModels,
    Stage,
    WatchCatalog,
)
from actors.contracts.catalog import Move
from actors.contracts.policies import RateTerms
from actors.core.lifecycle import VersionSet
from actors.errors import ArtifactLost, ArtifactRefused, ModelConflict, ModelNotFound
from actors.registry import Registry, RegistryOptions
from actors.stores import models
from supervision.contracts import Contract
from supervision.errors import BadRequest, Forbidden
from supervision.runtime.codec import decode
from supervision.runtime.connections import Connections
from supervision.runtime.dispatch import reply
from supervision.runtime.peer import Peer
from supervision.runtime.streams import Stream
from supervision.runtime.wire import ASK
from tests.support.artifact_shop import Shop, flip, write_trust
from tests.support.roster_nodes import StillTree, embodied
from tests.support.tls_hubs import Cluster, cluster
from tests.support.waiting import PATIENCE_S, until

CARD = ModelCard(name="echo", version="1", engine="echo", context=512)
SECOND = msgspec.structs.replace(CARD, version="2")


class Office:
    """A registry on a hub of node n1, and processes of two nodes that ask it."""

    def __init__(self, hubs: Cluster, dsn: str) -> None:
        self.hubs = hubs
        self.dsn = dsn
        self.here: Connections
        self.there: Connections
        self.made: list[Registry] = []
        self.told: list[Contract] = []

    async def registry(self, *catalog: ModelCard, **options: Any) -> Registry:
        made = Registry()
        tree = StillTree()
        roster = await self.hubs.hub("n1")
        roster.on_request = self._ordered
        tree.put("control/roster", str(roster.address))
        values: dict[str, Any] = {
            "dsn": self.dsn,
            "catalog": catalog or (CARD,),
            "reread_s": 3600.0,
        }
        await embodied(made, await self.hubs.hub("n1"), RegistryOptions(**(values | options)), tree)
        self.made.append(made)
        return made

    def _ordered(self, peer: Peer, kind: int, number: int, payload: bytes) -> None:
        self.told.append(decode(payload))
        if kind == ASK:
            reply(peer, number, Commanded(reached=("n1",)))

    async def ask(self, contract: Contract, hub: Connections | None = None) -> ModelsShown:
        shown = await (hub or self.here).ask(self.made[-1].address, contract, PATIENCE_S)
        assert isinstance(shown, ModelsShown)
        return shown

    async def stages(self, hub: Connections | None = None) -> dict[str, str]:
        return {card.ref: str(card.stage) for card in (await self.ask(ShowModels(), hub)).models}

    async def watch(self, registry: Registry) -> Stream:
        return self.here.stream(registry.address, WatchCatalog(), 4)

    async def close(self) -> None:
        for registry in self.made:
            for task in list(registry._background):
                task.cancel()
            await registry.stop(1.0)


@pytest.fixture
async def office(tmp_path: Path, dsn: str) -> AsyncIterator[Office]:
    async with cluster(tmp_path) as hubs:
        made = Office(hubs, dsn)
        made.here, made.there = await hubs.hub("n1"), await hubs.hub("n2")
        try:
            yield made
        finally:
            await made.close()


async def test_it_reads_again_when_its_own_node_says_so(
    office: Office, connection: asyncpg.Connection
) -> None:
    registry = await office.registry()
    stream = await office.watch(registry)
    first = await anext(stream)
    assert isinstance(first, Catalog)
    assert [card.context for card in first.models] == [512]
    wider = msgspec.structs.replace(CARD, context=1024)
    shelf = VersionSet(await models.listed(connection))
    await models.write(connection, shelf.enter([wider, SECOND], 1.0))  # by another configuration
    office.there.tell(registry.address, ModelsChanged())  # is not its business
    office.here.tell(registry.address, ModelsChanged())
    office.here.tell(registry.address, ModelsChanged())
    second = await anext(stream)
    assert isinstance(second, Catalog)
    assert second.version == 2
    assert [(card.ref, card.context) for card in second.models] == [("echo@1", 1024)]
    await until(lambda: not registry._reading.locked(), PATIENCE_S)
    assert registry._catalog.version == 2, "what is the same is no news"
    stream.close()


async def test_a_version_from_its_registration_to_its_end(office: Office) -> None:
    registry = await office.registry()
    stream = await office.watch(registry)

    async def offered() -> list[tuple[str, str]]:
        catalog = await asyncio.wait_for(anext(stream), PATIENCE_S)
        assert isinstance(catalog, Catalog)
        return [(card.ref, str(card.stage)) for card in catalog.models]

    assert await offered() == [("echo@1", "stable")]
    shown = await office.ask(RegisterModel(card=SECOND, by="alice"))
    assert [(c.ref, c.stage) for c in shown.models] == [("echo@2", Stage.REGISTERED)]
    shown = await office.ask(MoveModel(ref="echo@2", verb=Move.PROMOTE))
    assert [(c.ref, c.stage) for c in shown.models] == [("echo@2", Stage.CANARY)]
    assert await offered() == [("echo@1", "stable"), ("echo@2", "canary")]
    assert (await office.ask(ShowModels(ref="echo"))).current == ("echo@1",)
    await office.ask(MoveModel(ref="echo@2", verb=Move.PROMOTE, by="alice"))
    assert await offered() == [("echo@1", "stable"), ("echo@2", "stable")]
    assert (await office.ask(ShowModels(ref="echo"))).current == ("echo@2",)
    assert (await office.ask(ShowModels(ref="echo@1"))).current == ("echo@2",)
    await office.ask(MoveModel(ref="echo", verb=Move.ROLLBACK))
    assert await offered() == [("echo@1", "stable")]
    assert (await office.ask(ShowModels())).current == ("echo@1",)
    with pytest.raises(ModelConflict, match="only stable version"):
        await office.ask(MoveModel(ref="echo@1", verb=Move.RETIRE))
    shown = await office.ask(MoveModel(ref="echo@1", verb=Move.RETIRE, force=True))
    assert await offered() == []
    shown = await office.ask(ShowModels(ref="echo@2", history=True))
    assert [(c.what, c.before, c.after, c.by) for c in shown.history] == [
        ("registered", "", "registered", "alice"),
        ("promoted", "registered", "canary", "n1"),
        ("promoted", "canary", "stable", "alice"),
        ("rolled_back", "stable", "registered", "n1"),
    ]
    stream.close()
    await until(lambda: len(office.told) >= 5, PATIENCE_S)  # once for each change
    assert {type(order) for order in office.told} == {Command}
    assert {order.verb for order in office.told} == {"models_changed"}  # type: ignore[attr-defined]


async def test_a_restart_keeps_what_operators_did(office: Office) -> None:
    await office.registry(CARD, SECOND)
    assert (await office.ask(ShowModels())).current == ("echo@2",)  # the last one listed
    await office.ask(RegisterModel(card=msgspec.structs.replace(CARD, version="3")))
    await office.ask(MoveModel(ref="echo@2", verb=Move.RETIRE))
    wider = msgspec.structs.replace(
        CARD, context=1024, policy=ModelPolicy(max_tokens=7), adapter=""
    )
    registry = await office.registry(wider, SECOND)
    shown = await office.ask(ShowModels(history=True))
    assert {c.ref: str(c.stage) for c in shown.models} == {
        "echo@1": "stable", "echo@2": "retired", "echo@3": "registered",
    }  # fmt: skip
    assert [c.ref for c in registry._catalog.models] == ["echo@1"]
    assert registry._catalog.models[0].policy.max_tokens == 7
    last = shown.history[-1]
    assert (last.ref, last.what, last.by) == ("echo@1", "changed", "the configuration")
    assert last.note == "context 512 → 1024, policy.max_tokens 0 → 7"
    await office.registry(SECOND)  # it doesn't list echo@1 any more
    shown = await office.ask(ShowModels(history=True))
    assert len(shown.history) == 5
    assert (shown.current, shown.unlisted) == ((), ("echo@1",))
    with pytest.raises(ModelConflict, match="earlier configuration"):
        await office.ask(MoveModel(ref="echo@1", verb=Move.PROMOTE))


async def test_who_may_ask(office: Office) -> None:
    await office.registry()
    for contract in (
        ShowModels(),
        RegisterModel(card=SECOND),
        MoveModel(ref="echo@1", verb=Move.RETIRE, force=True),
    ):
        with pytest.raises(Forbidden, match="may not say"):
            await office.ask(contract, office.there)
    operator = await office.hubs.hub("operator:alice", host="")
    await office.ask(RegisterModel(card=SECOND), operator)
    shown = await office.ask(ShowModels(ref="echo@2", history=True), operator)
    assert [line.by for line in shown.history] == ["operator:alice"]


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"name": ""}, "name"),
        ({"name": "a@b"}, "name"),
        ({"name": "x" * 128}, "name"),
        ({"version": "1/2"}, "version"),
        ({"version": ""}, "version"),
        ({"engine": "abacus"}, "engine"),
        ({"context": 0}, "context"),
        ({"context": 1 << 40}, "context"),
        ({"dtype": "int1"}, "dtype"),
        ({"source": "package:x"}, "source"),
        ({"engine": "transformers"}, "source"),
        ({"engine": "transformers", "source": "models/tiny"}, "source"),
        ({"engine": "transformers", "source": "artifact:sha256:00"}, "source"),
        ({"engine": "transformers", "source": "package:"}, "source"),
        ({"engine": "transformers", "source": "/a\nb"}, "source"),
        ({"adapter": "/a"}, "adapter"),
        ({"engine": "transformers", "source": "/a", "adapter": "b"}, "adapter"),
        ({"gpu_class": "h 100"}, "gpu_class"),
        ({"memory_mib": -1}, "memory_mib"),
        ({"policy": ModelPolicy(canary_share=1.5)}, "policy.canary_share"),
        ({"policy": ModelPolicy(canary_share=float("nan"))}, "policy.canary_share"),
        ({"policy": ModelPolicy(max_tokens=-1)}, "policy.max_tokens"),
        ({"policy": ModelPolicy(concurrency=-1)}, "policy.concurrency"),
        ({"policy": ModelPolicy(tenants=("A B",))}, "policy.tenants"),
        ({"policy": ModelPolicy(regions=("",))}, "policy.regions"),
        ({"policy": ModelPolicy(order=("retry", "retry"))}, "policy.order[1]"),
        ({"policy": ModelPolicy(order=("retry",), rate=RateTerms())}, "policy.rate"),
        ({"engine": "transformers", "source": "artifact:sha256:" + "0" * 64}, "source"),
    ],
)
async def test_what_cannot_be_a_model(office: Office, changes: Any, param: str) -> None:
    await office.registry()
    with pytest.raises(BadRequest) as caught:
        await office.ask(RegisterModel(card=msgspec.structs.replace(SECOND, **changes)))
    assert caught.value.param == param
    assert param.partition(".")[0] in caught.value.message
    assert await office.stages() == {"echo@1": "stable"}


@pytest.mark.parametrize(
    ("contract", "error"),
    [
        (MoveModel(ref="echo@9", verb=Move.PROMOTE), ModelNotFound),
        (MoveModel(ref="echo", verb=Move.PROMOTE), ModelNotFound),
        (MoveModel(ref="", verb=Move.ROLLBACK), ModelNotFound),
        (MoveModel(ref="x", verb=Move.ROLLBACK), ModelNotFound),
        (MoveModel(ref="echo@1", verb=Move.PROMOTE, to="retired"), BadRequest),
        (MoveModel(ref="echo@1", verb=Move.PROMOTE, to="canary"), ModelConflict),
        (MoveModel(ref="echo@1", verb=Move.ROLLBACK), ModelConflict),
        (MoveModel(ref="e" * 300, verb=Move.RETIRE), BadRequest),
        (MoveModel(ref="e\0", verb=Move.RETIRE), BadRequest),
        (ShowModels(ref="e\0"), BadRequest),
        (RegisterModel(card=msgspec.structs.replace(CARD, context=9999)), ModelConflict),
        (
            RegisterModel(card=msgspec.structs.replace(CARD, policy=ModelPolicy(max_tokens=1))),
            ModelConflict,
        ),
    ],
)
async def test_what_cannot_be_done(
    office: Office, contract: Contract, error: type[Exception]
) -> None:
    await office.registry()
    with pytest.raises(error) as caught:
        await office.ask(contract)
    assert type(caught.value) is error
    assert await office.stages() == {"echo@1": "stable"}
    assert not office.told


async def test_two_operators_at_once(office: Office) -> None:
    """Who comes second, having seen what isn't so any more, hears what has changed."""
    await office.registry()
    for version in "23":
        await office.ask(RegisterModel(card=msgspec.structs.replace(CARD, version=version)))
    seen = (await office.ask(ShowModels(ref="echo"))).revision
    moves = [
        MoveModel(ref=f"echo@{version}", verb=Move.PROMOTE, to="stable", revision=seen, by=by)
        for version, by in (("2", "alice"), ("3", "bob"))
    ]
    answers = await asyncio.gather(*map(office.ask, moves), return_exceptions=True)
    [first] = [n for n, answer in enumerate(answers) if isinstance(answer, ModelsShown)]
    second = answers[1 - first]
    assert isinstance(second, ModelConflict)
    who, version = ("alice", "2") if first == 0 else ("bob", "3")
    assert f"{who} has promoted echo@{version}, which is stable now" in second.message
    assert (await office.ask(ShowModels())).current == (f"echo@{version}",)
    # The first one's answer was lost, say, and it asks again: nothing more is done.
    again = await office.ask(moves[first])
    assert again.history == ()
    assert [c.ref for c in again.models] == [f"echo@{version}"]


async def test_a_change_that_nobody_told_of_is_found(
    office: Office, connection: asyncpg.Connection
) -> None:
    registry = await office.registry(reread_s=0.05)
    stream = await office.watch(registry)
    await anext(stream)
    shelf = VersionSet(await models.listed(connection), ["echo@1"])
    move = MoveModel(ref="echo@1", verb=Move.RETIRE, force=True)
    await models.write(connection, shelf.move(move, "another node", 1.0))
    catalog = await asyncio.wait_for(anext(stream), PATIENCE_S)
    assert isinstance(catalog, Catalog)
    assert catalog.models == ()
    stream.close()


async def test_only_what_is_signed_is_registered(office: Office, tmp_path: Path) -> None:
    shop = Shop(tmp_path, size=1000)
    artifacts = ArtifactOptions(replicas=tuple(shop.urls), trust_dir=str(shop.trust))
    await office.registry(artifacts=artifacts)
    source = f"artifact:sha256:{shop.digest}"
    card = ModelCard(name="tiny", version="1", engine="transformers", source=source)

    async def register(card: ModelCard) -> ModelsShown:
        return await office.ask(RegisterModel(card=card))

    with pytest.raises(ArtifactLost):
        await register(card)
    await shop.push(b"no signature", min_replicas=1)
    with pytest.raises(ArtifactRefused, match="is refused"):
        await register(card)
    await shop.push()
    with pytest.raises(ArtifactLost):
        await register(msgspec.structs.replace(card, adapter="artifact:sha256:" + "1" * 64))
    revoked = f'[[revoked]]\nartifact = "sha256:{shop.digest}"\nreason = "stolen"'
    write_trust(shop.trust, shop.signer, extra=revoked)
    with pytest.raises(ArtifactRefused, match="was revoked: stolen"):
        await register(card)
    write_trust(shop.trust, shop.signer)
    shown = await register(card)
    assert [c.source for c in shown.models] == [source]
    assert (await register(card)).history == ()  # once more
    for number in range(3):
        flip(shop.store(number) / "manifests" / f"{shop.digest}.json")
    with pytest.raises(ArtifactLost):
        await register(msgspec.structs.replace(card, version="2"))
