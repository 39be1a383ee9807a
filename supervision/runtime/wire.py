"""The frames of a connection, and how bytes become frames.

A frame is a big-endian u32, the number of bytes that follow it; a u8, its kind; a u64, what
it belongs to (an ask or a stream of the sender of `ASK` or `OPEN`, the sequence number of a
system message, 0 elsewhere); and the payload. The first frame of each side of a connection
is `HELLO`. `ASK`, `OPEN`, `TELL`, `REPLY` and `ITEM` carry a contract, see
`supervision.runtime.codec`.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

import msgspec

from supervision.errors import ProtocolError
from supervision.unreadable import UNREADABLE

PROTOCOL_VERSION: Final = 3  # goes up with whatever an older process would read wrongly
OLDEST_VERSION: Final = 3  # that is still spoken; 2 had pickles on the system road
MAX_FRAME: Final = 16 << 20  # bytes of one frame, unless the node declares another maximum
MAX_GREETING: Final = 1024  # before it is known who speaks, nobody gets more memory than this

HELLO: Final = 0  # payload: Greeting
SYSTEM: Final = 1  # payload: a message of Thespian's, see `system_messages`; acknowledged
ACK: Final = 2  # id: all system messages up to this number have arrived
TELL: Final = 3
ASK: Final = 4
REPLY: Final = 5  # an empty payload is None
ERROR: Final = 6  # ends an ask or a stream; payload: a Fault
OPEN: Final = 7  # payload: u32 credit, then the contract
ITEM: Final = 8
END: Final = 9
CREDIT: Final = 10  # payload: u32, so many more items may be sent
CANCEL: Final = 11  # nobody waits for this ask or stream any more
MOVE: Final = 12  # the last frame on a connection: the next ones come on the newer one
MOVED: Final = 13  # the answer
LEAVE: Final = 14  # the last frame on a connection that its dialer has no use for
LEFT: Final = 15  # the answer, and the last frame: nor have we
STAY: Final = 16  # the answer: we have

HEADER: Final = Struct(">IBQ")
U32: Final = Struct(">I")
HEADER_SIZE: Final = HEADER.size
_LENGTH_SIZE: Final = 4
OVERHEAD: Final = HEADER_SIZE - _LENGTH_SIZE  # what the length counts besides the payload

Frame = tuple[int, int, bytes]  # kind, id, payload

_pack = HEADER.pack
_unpack_from = HEADER.unpack_from


def frame(kind: int, number: int, payload: bytes = b"") -> bytes:
    """One whole frame, ready to be written."""
    return _pack(len(payload) + OVERHEAD, kind, number) + payload


class Greeting(msgspec.Struct, frozen=True, array_like=True):
    """Who speaks: protocol version, node id, address (`node/name/port`), the largest frame that
    it accepts, in bytes, a number that no other process at this address ever had (system
    messages are counted anew with it), and the oldest version that it speaks as well; 0 for no
    other. Later versions may append fields."""

    version: int
    node: str
    address: str
    max_frame: int
    incarnation: int
    oldest: int = 0


_greeting_encoder = msgspec.msgpack.Encoder()
_greeting_decoder = msgspec.msgpack.Decoder(Greeting)


def greet(greeting: Greeting) -> bytes:
    """`greeting` as a frame."""
    return frame(HELLO, 0, _greeting_encoder.encode(greeting))


def read_greeting(payload: bytes) -> Greeting:
    """
    Raises:
        ProtocolError: it is none.
    """
    try:
        return _greeting_decoder.decode(payload)
    except UNREADABLE as error:
        raise ProtocolError(f"the first frame of a connection is no greeting: {error}") from error


class OtherVersion(ProtocolError):
    """Who greets speaks no version of the wire that this process does."""


def spoken(greeting: Greeting, here: str) -> int:
    """The newest version of the wire that both sides speak; `here` is our node. What is sent before
    the greeting of the other side has come must be of version `OLDEST_VERSION`.

    Raises:
        OtherVersion: there is none.
    """
    version = min(greeting.version, PROTOCOL_VERSION)
    oldest = greeting.oldest or greeting.version
    if version >= max(oldest, OLDEST_VERSION):
        return version
    theirs = _versions(oldest, greeting.version)
    ours = _versions(OLDEST_VERSION, PROTOCOL_VERSION)
    if greeting.node == here:
        raise OtherVersion(
            f"{greeting.address} of this node speaks {theirs} of the wire, this process {ours}; "
            "use the release that started the node, or restart it with this one"
        )
    behind = "it" if greeting.version < OLDEST_VERSION else "this node"
    raise OtherVersion(
        f"node {greeting.node} speaks {theirs} of the wire, this node {ours}; upgrade {behind}"
    )


def _versions(oldest: int, newest: int) -> str:
    return f"version {newest}" if oldest >= newest else f"versions {oldest} to {newest}"


class Framer:
    """Cuts a stream of bytes into frames. Holds at most one incomplete frame, which is at most
    `limit` bytes (`first` for the first one), and copies every byte a fixed number of times
    however it was split."""

    __slots__ = ("_bound", "_limit", "_need", "_rest")

    def __init__(self, limit: int = MAX_FRAME, first: int = MAX_GREETING) -> None:
        self._bound = first
        self._limit = limit
        self._rest = bytearray()
        self._need = HEADER_SIZE  # bytes that `_rest` must hold before another look pays

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that `data` completes, in order.

        Raises:
            ProtocolError: a frame is longer than `limit` or shorter than its header. The
                connection can't be used any more.
        """
        rest = self._rest
        if rest:
            rest += data
            if len(rest) < self._need:
                return []
            data = bytes(rest)
            rest.clear()
        frames: list[Frame] = []
        position, size = 0, len(data)
        while size - position >= HEADER_SIZE:
            length, kind, number = _unpack_from(data, position)
            if length > self._bound or length < OVERHEAD:
                if frames:
                    self._bound = self._limit  # the first one is among them
                if length > self._bound or length < OVERHEAD:
                    raise ProtocolError(
                        f"a frame of {length} bytes was announced; it must have "
                        f"{OVERHEAD} to {self._bound}"
                    )
            end = position + _LENGTH_SIZE + length
            if end > size:
                self._need = end - position
                break
            frames.append((kind, number, data[position + HEADER_SIZE : end]))
            position = end
        else:
            self._need = HEADER_SIZE
        if frames:
            self._bound = self._limit
        if position < size:
            rest += memoryview(data)[position:]
        return frames
