"""A node that was taken over: a process with its certificate, which says all that it can encode to
every process of the other nodes that it finds, and keeps every byte that it is sent.

    python -m tests.support.turned_node FOLDER SECONDS [--seed N]

FOLDER/turned.json says where it is and where the others are, FOLDER/world.json what else it knows,
and is read again and again. What it is sent goes to FOLDER/received. Its standard output has one
JSON object when it has said all for SECONDS, and one when nobody hears it any more.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import ssl
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random
from typing import Any, BinaryIO, Final

import msgspec

from actors.contracts import WatchCatalog
from actors.roster.cluster_members import PURPOSE
from supervision.contracts import (
    ActorFound,
    ChildKind,
    ChildStatus,
    FindActor,
    ShowTree,
    Tree,
    WatchTree,
)
from supervision.contracts.supervising import TreeNode
from supervision.errors import (
    DeadlineExceeded,
    Forbidden,
    Overloaded,
    PeerLost,
    ProtocolError,
    TetherError,
)
from supervision.runtime import Address
from supervision.runtime.codec import decode
from supervision.runtime.connection import Connection
from supervision.runtime.connections import Connections
from supervision.runtime.dispatch import reply
from supervision.runtime.node_transport import NodeTransport
from supervision.runtime.peer import Peer
from supervision.runtime.routes import ListenAddress, Routes
from supervision.runtime.sockets import fresh_name
from supervision.runtime.streams import Stream
from supervision.runtime.wire import ASK, OPEN, TELL
from supervision.security.identity import PROTOCOL, Identity
from supervision.security.signature import Seal
from tests.support import turned_words as words

ADMIN_PORT: Final = 1900
AT_ONCE: Final = 24
ANSWER_S: Final = 2.0
HOARD: Final = 6000  # streams of one actor; it works on 4,096 requests
HOLD_S: Final = 5.0
ITEMS: Final = 3  # that it reads of a stream
ITEM_S: Final = 0.5
_UNHEARD: Final = (Forbidden, ProtocolError, PeerLost, DeadlineExceeded, Overloaded, TimeoutError)


class Told(msgspec.Struct, frozen=True):
    """Its own id, address and folder, and the addresses of the others by their ids."""

    node: str
    host: str
    identity: str
    others: dict[str, str]


class Turned:
    """It listens at the Admin's port as the node did, and answers as a node would: with itself."""

    def __init__(self, folder: Path, received: BinaryIO, random: Random) -> None:
        self.told = msgspec.json.decode((folder / "turned.json").read_bytes(), type=Told)
        self.folder, self.random = folder, random
        self.said: Counter[str] = Counter()
        self.came_to: Counter[str] = Counter()  # how what was asked has ended
        self.obeyed: Counter[str] = Counter()  # contracts that somebody's handler has taken
        self.heard: Counter[str] = Counter()  # contracts that others have said to it
        self._keep(received)
        self._runs = str(folder / "runs")
        self.admin = self._hub(Address.admin(self.told.node, ADMIN_PORT), ADMIN_PORT)
        self.other = self._hub(None, 0)
        self.world = words.World(me=str(self.other.address))
        assert self.other.border is not None
        self.identity = self.other.border.identity
        self.numbers = itertools.count(1)
        self.epoch = time.time_ns() // 1_000_000

    def _keep(self, received: BinaryIO) -> None:
        """All that any connection of this process is sent."""
        take = Connection.data_received

        def kept(connection: Connection, data: bytes) -> None:
            received.write(data)
            take(connection, data)

        Connection.data_received = kept  # type: ignore[method-assign]
        self.received = received

    def _hub(self, address: Address | None, port: int) -> Connections:
        told = self.told
        identity = Identity(Path(told.identity), told.node)
        routes = Routes(told.others)
        border = NodeTransport(identity, routes, ListenAddress(told.host, port, port))
        address = address or Address(told.node, fresh_name(), border.port)
        hub = Connections(asyncio.get_running_loop(), self._runs, address, border=border)
        hub.on_request = self._hears
        return hub

    def _hears(self, peer: Peer, kind: int, number: int, payload: bytes) -> None:
        contract = decode(payload if kind != OPEN else payload[4:])
        self.heard[type(contract).__name__] += 1
        me = str(self.other.address)
        if kind == TELL:
            return
        if isinstance(contract, FindActor):
            reply(peer, number, ActorFound(address=me))
        elif isinstance(contract, ShowTree):
            lines = [
                TreeNode(
                    path=line.path, kind=ChildKind.WORKER, state=ChildStatus.RUNNING, address=me
                )
                for line in self.world.lines
                if line.node == "n1"
            ]
            reply(peer, number, Tree(nodes=tuple(lines)))
        elif kind == ASK:
            reply(peer, number, None)

    # ---- finding

    async def find(self) -> None:
        """All processes of the others that their trees show, and what has leaked."""
        lines: list[words.Line] = []
        for node in self.told.others:
            admin = Address.admin(node, ADMIN_PORT)
            lines.append(words.Line(node, "admin", str(admin), 0))
            found = await self.other.ask(admin, FindActor(name="root"), ANSWER_S)
            tree = await self.other.ask(Address.parse(found.address), ShowTree(), ANSWER_S)
            lines.append(words.Line(node, "", found.address, Address.parse(found.address).pid))
            lines += [
                words.Line(node, one.path, one.address, one.pid)
                for one in tree.nodes
                if one.address
            ]
        self.world.lines = tuple(lines)
        known = json.loads((self.folder / "world.json").read_text())
        self.world.leases = tuple(words.Lease(**one) for one in known["leases"])
        self.world.lists = tuple(text.encode() for text in known["lists"])

    def at(self, path: str) -> Iterator[Address]:
        for line in self.world.lines:
            if line.path == path:
                yield Address.parse(line.address)

    # ---- saying

    async def say(self, to: Address, name: str, payload: bytes, mode: int) -> None:
        """Once: told, asked, or as a stream."""
        hub = self.other if self.random.random() < 0.8 else self.admin
        contract: Any = msgspec.Raw(payload)
        self.said[("tell", "ask", "stream")[mode]] += 1
        try:
            if mode == 0:
                hub.tell(to, contract)
            elif mode == 1:
                await hub.ask(to, contract, ANSWER_S)
                self.obeyed[name] += 1
            else:
                self.obeyed[name] += await self._reads(hub, to, contract)
        except (TetherError, TimeoutError) as error:
            self.came_to[type(error).__name__] += 1
            if not isinstance(error, _UNHEARD):
                self.obeyed[name] += 1

    async def _reads(self, hub: Connections, to: Address, contract: Any) -> bool:
        """Whether it has ended well, or had an item; not all of them end."""
        stream = hub.stream(to, contract, ITEMS)
        items = 0
        try:
            for _ in range(ITEMS):
                await asyncio.wait_for(stream.__anext__(), ITEM_S)
                items += 1
        except StopAsyncIteration:
            return True
        except TimeoutError:
            return items > 0
        finally:
            stream.close()
        return True

    async def all_of_it(self, until: float) -> None:
        """Rounds, each with other words, until then."""
        while time.monotonic() < until:
            with contextlib.suppress(TetherError):
                await self.find()
            for part in (self._lies(), self._announcements(), self._everything()):
                await self._run(part, until)
            await self._system()
            await self._raw(until)
            self.said["rounds"] += 1

    async def _run(self, part: Iterable[tuple[Address, str, bytes, int]], until: float) -> None:
        """The words are drawn when their turn comes, `AT_ONCE` of them under way."""
        turns = iter(part)

        async def speaker() -> None:
            for one in turns:
                if time.monotonic() > until:
                    return
                await self.say(*one)
                await asyncio.sleep(0)

        await asyncio.gather(*(speaker() for _ in range(AT_ONCE)))

    def _lies(self) -> Iterator[tuple[Address, str, bytes, int]]:
        for path, contract in words.lies(self.world):
            for to in self.at(path):
                for mode in (0, 1):
                    yield to, type(contract).__name__, msgspec.msgpack.encode(contract), mode

    def _announcements(self) -> Iterator[tuple[Address, str, bytes, int]]:
        seal = Seal(self.identity, PURPOSE)
        for one in words.announcements(self.world, seal, self.epoch, next(self.numbers) * 1000):
            for to in self.at("control/roster"):
                yield to, "Announce", msgspec.msgpack.encode(one), 1

    def _everything(self) -> Iterator[tuple[Address, str, bytes, int]]:
        """Every contract to every process, told, asked and as a stream."""
        lines = list(self.world.lines)
        self.random.shuffle(lines)
        for line in lines:
            to = Address.parse(line.address)
            for mode in range(3):
                for name, payload in words.contracts(self.world, self.random):
                    yield to, name, payload, mode

    async def _system(self) -> None:
        """Thespian's, to all, as the Admin of the node and as another process of it."""
        for line in self.world.lines:
            to = Address.parse(line.address)
            for hub in (self.admin, self.other):
                for payload in words.system_messages(self.world, self.random):
                    hub.system(to, payload, lambda _failure: None)
                    self.said["system"] += 1
            await asyncio.sleep(0.01)

    async def _raw(self, until: float) -> None:
        """Connections of its own, greeted as others, with frames that are none."""
        ports = [Address.parse(line.address) for line in self.world.lines]
        for to in ports:
            for parts in words.openings(self.world, self.random):
                if time.monotonic() > until:
                    return
                if self.random.random() < 0.25:
                    await self._opens(to, parts)

    async def _opens(self, to: Address, parts: tuple[bytes, ...]) -> None:
        self.said["raw"] += 1
        host = self.told.others[to.node]
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(ANSWER_S):
                reader, writer = await asyncio.open_connection(host, to.port, ssl=self._tls())
                try:
                    for part in parts:
                        writer.write(part)
                        await writer.drain()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(0.05):
                            while data := await reader.read(1 << 16):
                                self.received.write(data)
                finally:
                    writer.transport.abort()

    def _tls(self) -> ssl.SSLContext:
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
        made.set_alpn_protocols([PROTOCOL])
        made.load_cert_chain(Path(self.told.identity) / "node.pem")
        return made

    async def hoard(self) -> list[tuple[str, Stream]]:
        """Opens what it may watch until it is refused, and ends none of it."""
        held: list[tuple[str, Stream]] = []
        for path, contract in (("", WatchTree()), ("control/registry", WatchCatalog())):
            for to in self.at(path):
                streams = [self.other.stream(to, contract, 1) for _ in range(HOARD)]
                for stream in streams:
                    with contextlib.suppress(TetherError, TimeoutError):
                        await asyncio.wait_for(anext(stream), ANSWER_S)
                        held.append((type(contract).__name__, stream))
        return held

    # ---- the end

    async def hears_anybody(self) -> set[str]:
        """The nodes that answer it, on the connections that it has or on new ones."""
        answered: set[str] = set()
        for node in self.told.others:
            with contextlib.suppress(TetherError):
                admin = Address.admin(node, ADMIN_PORT)
                await self.other.ask(admin, FindActor(name="root"), ANSWER_S)
                answered.add(node)
        return answered

    def tell(self, **more: object) -> None:
        self.received.flush()
        counts = {n: dict(getattr(self, n)) for n in ("said", "came_to", "obeyed", "heard")}
        print(json.dumps({**counts, **more}), file=sys.__stdout__, flush=True)


async def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--seed", type=int, default=1)
    told = parser.parse_args()
    sys.stdout = sys.stderr  # for logs
    with (told.folder / "received").open("wb") as received:
        turned = Turned(told.folder, received, Random(told.seed))
        for hub in (turned.admin, turned.other):
            await hub.start()
        await turned.all_of_it(time.monotonic() + told.seconds)
        turned.tell()
        held = await turned.hoard()
        turned.tell(hoarded=dict(Counter(str(name) for name, _ in held)))
        await asyncio.sleep(HOLD_S)
        for _, stream in held:
            stream.close()
        while answered := await turned.hears_anybody():  # noqa: ASYNC110
            await asyncio.sleep(0.2)
        turned.tell(shut_out=not answered)
        for hub in (turned.admin, turned.other):
            hub.close()
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
