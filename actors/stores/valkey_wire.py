"""One command to a Valkey on a Unix socket, as its protocol has it for people: a line.

For whoever looks after the server, which needs no client library for that. Source: RESP, "Inline
commands" (valkey.io/topics/protocol).
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Final

_MOST: Final = 1 << 16  # bytes of an answer


class NotReady(Exception):
    """The server gives no answer, or one that isn't good."""


def ask(path: Path, password: str, command: str, timeout_s: float) -> bytes:
    """The answer to `command`, without its frame. Blocks for `timeout_s` at most.

    Raises:
        NotReady: there is none.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as road:
            road.settimeout(timeout_s)
            road.connect(str(path))
            with road.makefile("rwb") as words:
                words.write(f"AUTH {password}\r\n{command}\r\n".encode())
                words.flush()
                for_password, answer = _answer(words.readline(_MOST)), words.readline(_MOST)
                if for_password != b"OK":
                    raise NotReady(f"it takes no password: {for_password.decode(errors='replace')}")
                if answer.startswith(b"$") and answer[1:].strip().isdigit():
                    return words.read(min(int(answer[1:]), _MOST))
                return _answer(answer)
    except OSError as error:
        raise NotReady(str(error)) from error


def _answer(line: bytes) -> bytes:
    """
    Raises:
        NotReady: it is an error, or nothing.
    """
    if not line.startswith(b"+"):
        raise NotReady(line.decode(errors="replace").strip() or "it hangs up")
    return line[1:].strip()
