"""What a node that was taken over says: every contract and system message, filled in with what is
true of the network, and lies that would change something if anybody believed them."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import suppress
from random import Random
from typing import Any, Final

import msgspec
from msgspec import inspect
from thespian.actors import ActorAddress

import bench.fuzz.contracts  # noqa: F401 - imports every contract that there is
from actors.contracts import (
    Announce,
    HealthReport,
    Offer,
    Order,
    Outcome,
    Presence,
    Revocations,
    SetBreaker,
    Settle,
    Usage,
)
from actors.contracts.operating import BreakerState, KeepBreakers
from actors.roster.announcement import announce, control_topic, model_topic, presence_topic
from supervision.contracts import (
    ChildChanged,
    ChildKind,
    ChildStatus,
    Contract,
    ExitNotice,
    ExitReason,
    KillPlaced,
    TreeNode,
    known,
)
from supervision.contracts.operating import OperateChild, SetLogLevel
from supervision.errors import ProtocolError
from supervision.runtime import Address
from supervision.runtime.packed import pack
from supervision.runtime.system_messages import ROWS
from supervision.runtime.wire import ACK, ASK, MAX_FRAME, PROTOCOL_VERSION, Greeting, frame, greet
from supervision.security.signature import Seal
from tests.support.samples import sample

BAIT: Final = "bait@1"  # a model of nobody's
NUMBERS: Final = (0, 1, 2, 3, -1, 200, 2**31 - 1, 2**31, 2**63 - 1)
TIMES: Final = (0.0, 0.5, 3.0, -1.0, 1e9, float("inf"), float("nan"))


class Line(msgspec.Struct, frozen=True):
    """A process of another node, as its tree shows it."""

    node: str
    path: str
    address: str
    pid: int


class Lease(msgspec.Struct, frozen=True):
    """A job that runs, which nobody has told to this node: as if it had leaked."""

    job_id: str
    retry_token: str
    fence: int
    worker_id: str
    worker_address: str


class World(msgspec.Struct):
    """What whoever has turned the node knows."""

    me: str  # an address of its own
    lines: tuple[Line, ...] = ()
    leases: tuple[Lease, ...] = ()
    lists: tuple[bytes, ...] = ()  # revocation lists (PEM): an old one, and a forged one

    def text(self, field: str, random: Random) -> str:
        """For a field of this name, mostly something that fits it."""
        line, lease = self._line(random), self._lease(random)
        fitting = {
            "address": (line.address, self.me, lease.worker_address),
            "worker_address": (line.address, self.me, lease.worker_address),
            "worker_id": (lease.worker_id, "echo.n1", "echo.n2", "n1/echo.n1"),
            "node_id": ("n1", "n2", "n3"),
            "target": ("n1", "n2", "n1/echo.n1", "n2/echo.n2", ""),
            "job_id": (lease.job_id,),
            "retry_token": (lease.retry_token,),
            "tenant_id": ("acme", "other"),
            "path": (line.path, line.path.rpartition("/")[0], ""),
            "id": (line.path.rpartition("/")[2], "scheduler", "0", "echo.n1"),
            "model_ref": ("echo", "echo@1", BAIT, ""),
            "ref": ("echo", "echo@1", BAIT),
            "name": ("root", "echo", ""),
            "mode": ("forced_open", "disabled", "automatic"),
            "verb": ("restart", "stop", "kill", "drain", "undrain", "models_changed"),
            "level": ("CRITICAL", "DEBUG"),
        }.get(field, ())
        if fitting and random.random() < 0.8:
            return random.choice(fitting)
        return random.choice(
            (line.address, self.me, line.path, lease.job_id, f"tether-{secrets.token_hex(16)}",
             "n1", "", "\0", "x" * 5000, "..", "operator:ann")
        )  # fmt: skip

    def number(self, field: str, random: Random) -> int:
        if field == "pid" and random.random() < 0.8:
            return self._line(random).pid
        if "fenc" in field and random.random() < 0.8:
            return self._lease(random).fence
        return random.choice(NUMBERS)

    def _line(self, random: Random) -> Line:
        return random.choice(self.lines or (Line("n1", "control", self.me, 1),))

    def _lease(self, random: Random) -> Lease:
        return random.choice(self.leases or (Lease("x", "x", 1, "echo.n1", self.me),))


def said(kind: inspect.Type, world: World, random: Random, field: str = "") -> Any:
    """A value of the type, as it is written; now and then none of it."""
    if field and random.random() < 0.01:
        return random.choice((None, [], {}, "x", -1, [[["x"]]]))
    match kind:
        case inspect.UnionType():
            return said(random.choice(kind.types), world, random, field)
        case inspect.StructType():
            tag = [] if kind.tag is None else [kind.tag]
            return [*tag, *(said(f.type, world, random, f.encode_name) for f in kind.fields)]
        case inspect.TupleType():
            return [said(one, world, random, field) for one in kind.item_types]
        case inspect.VarTupleType() | inspect.ListType() | inspect.FrozenSetType():
            of = kind.item_type
            return [said(of, world, random, field) for _ in range(random.randrange(3))]
        case inspect.DictType():
            key = said(kind.key_type, world, random)
            return {key: said(kind.value_type, world, random, "address")}
        case inspect.EnumType():
            return random.choice(list(kind.cls)).value
        case inspect.LiteralType():
            return random.choice(kind.values)
        case inspect.BytesType():
            return random.choice((b"", b"\xc1", random.randbytes(4096), *world.lists))
        case inspect.StrType():
            return world.text(field, random)
        case inspect.BoolType():
            return random.random() < 0.5
        case inspect.IntType():
            return world.number(field, random)
        case inspect.FloatType():
            return random.choice(TIMES)
        case _:
            return None


def contracts(world: World, random: Random) -> Iterator[tuple[str, bytes]]:
    """Each by its name, as bytes: as little as its types allow, and filled in."""
    kinds = known()
    for cls, kind in zip(kinds, inspect.multi_type_info(list(kinds)), strict=True):
        yield cls.__name__, msgspec.msgpack.encode(sample(cls))
        with suppress(ValueError, OverflowError):
            yield cls.__name__, msgspec.msgpack.encode(said(kind, world, random))


def lies(world: World) -> Iterator[tuple[str, Contract]]:
    """To whom, by path, and what: all that would have changed something."""
    for line in world.lines:
        mine = TreeNode(
            path=line.path,
            kind=ChildKind.WORKER,
            state=ChildStatus.RUNNING,
            address=world.me,
            pid=1,
        )
        gone = TreeNode(
            path=line.path, kind=ChildKind.WORKER, state=ChildStatus.STOPPED, pid=line.pid
        )
        yield "", ChildChanged(node=mine)
        yield "", ChildChanged(node=gone)
        parent, _, id_ = line.path.rpartition("/")
        yield parent, ExitNotice(path=line.path, generation=1, reason=ExitReason.FAILED)
        yield parent, OperateChild(id=id_, verb="kill")
        yield line.path, SetLogLevel(level="CRITICAL")
        yield "admin", KillPlaced(pid=line.pid)
    for worker in ("echo.n1", "echo.n2"):
        yield "control/scheduler", SetBreaker(worker_id=worker, mode="forced_open")
        state = BreakerState(worker_id=worker, model_ref="", mode="forced_open", state="open")
        yield "control/reservation", KeepBreakers(breakers=(state,))
    for lease in world.leases:
        for outcome, fence, delivered in (
            (Outcome.FAILED, lease.fence, False),
            (Outcome.COMPLETED, lease.fence, True),
            (Outcome.COMPLETED, 0, True),
            (Outcome.CANCELLED, lease.fence, False),
        ):
            yield "control/reservation", Settle(
                job_id=lease.job_id, fencing_token=fence, outcome=outcome, delivered=delivered,
                usage=Usage(prompt_tokens=999_999, completion_tokens=999_999),
            )  # fmt: skip
    for pem in world.lists:
        yield "control/roster", Revocations(pem=pem)


def announcements(world: World, seal: Seal, epoch: int, first: int) -> Iterator[Announce]:
    """Signed by the node as its own are. Of the models that others ask for it offers none as its
    own: who does is sent prompts for them, and that is what a worker is for."""

    def worker(id_: str, node: str, address: str, model: str = "echo@1") -> HealthReport:
        return HealthReport(
            worker_id=id_, node_id=node, address=address, region="near", slots=64, running=0,
            queued=0, models=(model, model.partition("@")[0]), epoch=2**40, sequence=first,
        )  # fmt: skip

    def presence(*workers: HealthReport, **more: Any) -> Presence:
        return Presence(topic=presence_topic("near"), region="near", workers=workers, **more)

    theirs = {line.path: line.address for line in world.lines if line.node == "n1"}
    mine = dict.fromkeys(theirs, world.me)
    others = [line for line in world.lines if line.path.startswith("workers/")]
    orders = tuple(
        Order(topic=control_topic(region), number=first + n, verb=verb, target=target)
        for n, (verb, target) in enumerate(
            (verb, target)
            for verb in ("drain", "undrain", "models_changed")
            for target in ("n1", "n2", "n1/echo.n1", "n2/echo.n2", "")
        )
        for region in ("",)
    )
    offer = Offer(
        topic=model_topic("echo", "1", "near"), name="echo", version="1", workers=("echo.n1",),
        slots=10_000, free=10_000,
    )  # fmt: skip
    plain = [
        ("n3", (presence(worker("echo.n1", "n3", world.me, BAIT)),)),
        ("n3", (presence(addresses=mine),)),
        ("n3", (presence(addresses=mine, roles=("door", "control")),)),
        ("n3", (presence(addresses=mine, roles=("gateway",)),)),
        ("n3", (presence(addresses=theirs),)),
        ("n3", (presence(leads=True, revocations=2**31), offer, *orders)),
        ("n1", (presence(worker("echo.n1", "n1", world.me)),)),
        ("n1", (presence(leaving=True),)),
        ("n2", (presence(draining=True), *orders)),
        ("n3", (presence(worker("echo.n1", "n1", world.me)),)),
        *(("n3", (presence(worker("echo.n3", "n3", line.address)),)) for line in others),
    ]
    for number, (node, entries) in enumerate(plain):
        payload = announce(node, epoch, first + number, entries)
        signed = seal.sign(payload)
        yield Announce(payload=payload, certificate=signed.certificate, signature=signed.signature)


def system_messages(world: World, random: Random) -> Iterator[bytes]:
    """One of every row, with the addresses of others."""
    places = [Address.parse(line.address) for line in world.lines] or [Address.parse(world.me)]
    for row in ROWS:
        fields: list[Any] = []
        for kind in row.fields.values():
            guesses: list[Any] = [
                random.choice(places), Address.parse(world.me), random.choice(NUMBERS), 3.5, True,
                None, "actors.worker.worker.Worker", {"gpu": True, "n1": random.choice(places)}, [],
                ["ActorExitRequest", True], ["", 1],
            ]  # fmt: skip
            random.shuffle(guesses)
            fields.append(next((g for g in guesses if _fits(kind, g)), None))
        with suppress(ProtocolError, ValueError, OverflowError):
            yield pack([row.cls.__name__, *fields])


def _fits(kind: Any, guess: Any) -> bool:
    try:
        kind.take(ActorAddress(guess) if isinstance(guess, Address) else guess)
    except (ValueError, ProtocolError):
        return False
    return True


def openings(world: World, random: Random) -> Iterator[tuple[bytes, ...]]:
    """Of raw connections: greetings under other names, and frames that are none, or too large."""
    someone = random.choice(world.lines).address if world.lines else world.me

    def hello(
        node: str, address: str, version: int = PROTOCOL_VERSION, most: int = 1 << 20
    ) -> bytes:
        return greet(Greeting(version, node, address, most, random.randrange(1, 2**60)))

    own = hello("n3", f"n3/{random.randrange(2, 30_000)}-raw/0")
    exit_ = pack(["ActorExitRequest", True])
    yield (hello("n1", someone), frame(ASK, 1, b"\xc0"))
    yield (hello("n3", someone),)
    yield (hello("operator:ann", "operator:ann/1-x/0"), frame(ASK, 1, b"\xc0"))
    yield (hello("n1", "n1/admin/1900"), frame(1, 1, exit_))
    for version in (1, 2, PROTOCOL_VERSION + 1):
        yield (hello("n3", "n3/1-old/0", version),)
    yield (hello("n3", "n3/1-small/0", most=0), frame(ASK, 1, b"\x91\xa8ShowTree"))
    yield (random.randbytes(2000),)
    yield (own, (1 << 30).to_bytes(4, "big"), bytes(1 << 16))
    yield (own, MAX_FRAME.to_bytes(4, "big"), bytes(1 << 20))  # and never the rest
    yield (own, frame(ASK, 7, bytes((1 << 20) - 64)))
    yield (own, frame(ASK, 7, b"\xdd\x00\x0f\xff\xff" + bytes(0xFFFFF)))
    for kind in (*range(ACK + 15), 200):
        yield (own, *(frame(kind, n, random.randbytes(n % 40)) for n in range(64)))
