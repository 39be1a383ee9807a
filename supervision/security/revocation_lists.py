"""The revocation lists that a node has, on disk: the one in its identity folder, where `tether ca`
or who runs the node puts it, and its own copy of the newest that it has heard of.

The identity folder is read-only for a node that is run as it should be, so the copy lies with
the node's own data. Either may be missing, older, or broken; what counts is the newest by number
whose signature holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from supervision.security.files import make_folder, write
from supervision.telemetry import logs

if TYPE_CHECKING:
    from cryptography import x509

    from supervision.security.revocation import RevokedSerials

REVOKED: Final = "crl.pem"

log = logs.get(__name__)


class ListInUse(msgspec.Struct, frozen=True):
    """What a list says, and the list itself (PEM; empty if there is none), for who has an older
    one."""

    revocations: RevokedSerials
    pem: bytes = b""

    def newer(self, other: ListInUse) -> ListInUse:
        """That of the higher number."""
        return other if other.revocations.number > self.revocations.number else self


class RevocationLists:
    """`folder` is that of the identity; `kept` that of the copy, made if need be. Without `kept`
    nothing is kept."""

    def __init__(self, folder: Path, kept: Path | None) -> None:
        self._given = folder / REVOKED
        self._kept = None if kept is None else kept / REVOKED

    @property
    def paths(self) -> tuple[Path, ...]:
        """Where lists may lie."""
        return (self._given,) if self._kept is None else (self._given, self._kept)

    def newest(
        self, authorities: Sequence[x509.Certificate], before: ListInUse | None
    ) -> tuple[ListInUse, str]:
        """The newest good one of `before` and those on disk; and what is wrong with the list in the
        identity folder, if anything is. A copy of our own that is no good, as after a change of
        authorities, is only logged: others bring us the list again."""
        from supervision.security.revocation import RevokedSerials

        found, wrong = before or ListInUse(RevokedSerials()), ""
        for path in self.paths:
            try:
                found = found.newer(_read(path, authorities))
            except FileNotFoundError:
                pass
            except (OSError, ValueError) as error:
                if path == self._given:
                    wrong = f"{path} can't be used: {error}"
                else:
                    log.warning(
                        "a kept revocation list is no good", path=str(path), error=str(error)
                    )
        return found, wrong

    def keep(self, used: ListInUse, authorities: Sequence[x509.Certificate]) -> bool:
        """Puts `used` on disk, unless one as new is there, or nothing is to be kept; false then.

        Raises:
            OSError: it can't be written.
        """
        if self._kept is None or not used.pem:
            return False
        try:
            there = _read(self._kept, authorities).revocations.number
        except (OSError, ValueError):
            there = 0
        if there >= used.revocations.number:
            return False
        make_folder(self._kept.parent)
        write(self._kept, used.pem)
        return True


def _read(path: Path, authorities: Sequence[x509.Certificate]) -> ListInUse:
    """
    Raises:
        OSError, ValueError: it isn't there, or no good.
    """
    from supervision.security.revocation import MAX_BYTES, read_list

    with path.open("rb") as file:
        pem = file.read(MAX_BYTES + 1)
    return ListInUse(read_list(pem, authorities), pem)
