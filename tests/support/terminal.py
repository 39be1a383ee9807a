"""A terminal of our own, and a program that believes in it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Sequence
from pathlib import Path

_ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|\][^\x07]*\x07|[=>()][0-9A-B]?)")


class Terminal:
    """Runs `command` on a terminal of 50 lines and 240 columns, and keeps what it shows."""

    def __init__(self, command: Sequence[str], cwd: Path, env: dict[str, str], prompt: str) -> None:
        self.cwd = cwd
        self._main, there = pty.openpty()
        fcntl.ioctl(there, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 240, 0, 0))

        def take_terminal() -> None:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that Ctrl-C is a signal

        self.process = subprocess.Popen(
            command, cwd=cwd, stdin=there, stdout=there, stderr=there, start_new_session=True,
            preexec_fn=take_terminal,  # noqa: PLW1509 - one ioctl, and no lock is taken
            env={**env, "TERM": "xterm-256color", "PROMPT_TOOLKIT_NO_CPR": "1"},
        )  # fmt: skip
        os.close(there)
        self._prompt = re.compile(prompt + r"$")
        self._raw = b""

    @property
    def text(self) -> str:
        """All that was shown since the last `clear`, without escapes."""
        shown = self._raw.decode(errors="replace")
        return _ESCAPES.sub("", shown).replace("\r\n", "\n").replace("\r", "")

    def clear(self) -> None:
        self._raw = b""

    def type(self, keys: str) -> None:
        os.write(self._main, keys.encode())

    def expect(self, pattern: str | re.Pattern[str], timeout_s: float = 60.0) -> str:
        """Reads until what is shown holds `pattern`; gives all that is shown."""
        until = time.monotonic() + timeout_s
        while not re.search(pattern, self.text):
            left = until - time.monotonic()
            assert left > 0, f"{pattern!r} was not shown:\n{self.text[-3000:]}"
            assert self._read(min(left, 1.0)) or self.process.poll() is None, (
                f"it ended without {pattern!r}:\n{self.text[-3000:]}"
            )
        return self.text

    def prompted(self) -> str:
        """Reads until it waits for the next line."""
        return self.expect(self._prompt)

    def complete(self, keys: str, becomes: str) -> None:
        """Types `keys` and a tab; returns when the line that is shown, drawn anew, is `becomes`."""
        self.type(keys + "\t")
        until = time.monotonic() + 60
        while True:
            self.clear()
            self.type("\x0c")  # Ctrl-L
            pause = time.monotonic() + 0.3
            while time.monotonic() < pause:
                self._read(0.05)
                if becomes in self.text:
                    return
            assert time.monotonic() < until, f"{becomes!r} was not completed:\n{self.text}"

    def run(self, line: str) -> str:
        """Types a line, and gives what is shown until the next prompt, without both."""
        self.clear()
        self.type(line + "\r")
        self.expect(r"\n")
        shown = self.prompted()
        return shown.partition("\n")[2].rpartition("\n")[0]

    def close(self) -> int:
        """Ctrl-D, and the exit code; killed if it doesn't heed that."""
        try:
            if self.process.poll() is None:
                self.type("\x04")
                until = time.monotonic() + 30
                while self.process.poll() is None and time.monotonic() < until:
                    self._read(0.1)
        finally:
            if self.process.poll() is None:
                self.process.kill()
            code = self.process.wait()
            os.close(self._main)
        return code

    def _read(self, timeout_s: float) -> bool:
        if not select.select([self._main], [], [], timeout_s)[0]:
            return False
        try:
            more = os.read(self._main, 65536)
        except OSError:  # EIO: nobody has the other end any more
            return False
        self._raw += more
        return bool(more)
