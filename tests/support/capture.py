"""What goes over the wire between addresses: a capture of our own (packet(7))."""

from __future__ import annotations

import socket
import struct
import threading
from collections import defaultdict
from typing import Final

_ALL: Final = 0x0003  # ETH_P_ALL
_IPV4: Final = 0x0800
_TCP: Final = 6
_HEADER: Final = 14
_MAX_BYTES: Final = 256 << 20  # of all flows


class Capture:
    """From `start` to `stop` the TCP payloads of all interfaces that this thread's namespace has,
    put in order by sequence number."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 20)
        self._socket.settimeout(0.1)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._flows: dict[tuple[str, int, str, int], dict[int, bytes]] = defaultdict(dict)
        self._bytes = 0

    def __enter__(self) -> Capture:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._socket.close()

    def between(self, sources: set[str], targets: set[str]) -> bytes:
        """All that went from the ones to the others, flow after flow."""
        found = []
        for (source, _, target, _), segments in self._flows.items():
            if source in sources and target in targets and source != target:
                found.append(_joined(segments))
        return b"\0\0\0\0".join(found)

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                frame = self._socket.recv(1 << 17)
            except TimeoutError:
                continue
            self._take(memoryview(frame))

    def _take(self, frame: memoryview) -> None:
        if len(frame) < _HEADER + 20 or int.from_bytes(frame[12:14], "big") != _IPV4:
            return
        packet = frame[_HEADER:]
        if packet[9] != _TCP:
            return
        length = int.from_bytes(packet[2:4], "big")
        segment = packet[(packet[0] & 15) * 4 : length or len(packet)]
        if len(segment) < 20:
            return
        source_port, target_port, sequence = struct.unpack("!HHI", segment[:8])
        payload = bytes(segment[(segment[12] >> 4) * 4 :])
        if payload and self._bytes < _MAX_BYTES:
            self._bytes += len(payload)
            flow = (
                socket.inet_ntoa(packet[12:16]), source_port,
                socket.inet_ntoa(packet[16:20]), target_port,
            )  # fmt: skip
            self._flows[flow][sequence] = payload


def _joined(segments: dict[int, bytes]) -> bytes:
    """One flow; what was sent twice is taken once."""
    out = bytearray()
    at: int | None = None
    for sequence in sorted(segments):
        payload = segments[sequence]
        if at is not None and sequence < at:
            payload = payload[at - sequence :]
        elif at is not None and sequence > at:
            out += b"\0\0\0\0"  # a gap
        out += payload
        at = max(at or 0, sequence + len(segments[sequence]))
    return bytes(out)
