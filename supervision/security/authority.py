"""The authority of a cluster: a folder with its key, its ledger and its revocation list.

::

    DIR/ca.key        never leaves this folder
    DIR/ca.pem        its certificate
    DIR/crl.pem       what is revoked, to be copied to every node
    DIR/ledger.json   what was issued
    DIR/nodes/NODE/   node.pem (key and certificate), ca.pem, crl.pem: to be copied to the node
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Final, Self

import msgspec
from cryptography import x509

from supervision.security import files
from supervision.security.certificate import (
    KeyKind,
    certificate_pem,
    cluster_of,
    key_pem,
    new_authority,
    new_certificate,
    new_key,
    read_key,
    utc,
)
from supervision.security.name import OPERATOR, NodeName
from supervision.security.revocation import new_list
from supervision.security.roles import checked
from supervision.unreadable import UNREADABLE

KEY: Final = "ca.key"
CERTIFICATE: Final = "ca.pem"
REVOKED: Final = "crl.pem"
NODE: Final = "node.pem"
LEDGER: Final = "ledger.json"
DAY: Final = 86_400.0
_REMEMBERED_S: Final = 30 * DAY  # a certificate is forgotten so long after its end


class AuthorityUnusable(Exception):
    """What was asked of an authority can't be done; one sentence."""


class Issued(msgspec.Struct, frozen=True, kw_only=True):
    """One certificate in the ledger; times in seconds since the epoch, `revoked_at` 0 if it is
    not. `roles` are empty for operators, and for nodes of an earlier release."""

    serial: str  # hexadecimal
    node: str
    key: KeyKind
    begins_at: float
    ends_at: float
    revoked_at: float = 0.0
    roles: tuple[str, ...] = ()

    def state(self, now: float) -> str:
        if self.revoked_at:
            return "revoked"
        return "expired" if self.ends_at <= now else "good"


class IssueLog(msgspec.Struct, frozen=True, kw_only=True):
    """What was issued, oldest first, and the number of the newest revocation list."""

    list_number: int = 0
    issued: tuple[Issued, ...] = ()


class Authority:
    """Opened with `open`, made with `init`. Every change holds a lock on the folder, so that two
    commands may run at once. Any of them raises AuthorityUnusable if the folder can't be used."""

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.time) -> None:
        self.folder = folder
        self._clock = clock
        self._certificate: x509.Certificate

    @classmethod
    def init(
        cls,
        folder: Path,
        cluster: str,
        *,
        key: KeyKind = "ed25519",
        lifetime_s: float = 3650 * DAY,
        clock: Callable[[], float] = time.time,
    ) -> Self:
        """Makes the authority of `cluster`.

        Raises:
            AuthorityUnusable: there is one in `folder`, or it can't be written.
            ValueError: `cluster` is no name.
        """
        try:
            files.make_folder(folder)
        except OSError as error:
            raise _unusable(folder, error) from error
        self = cls(folder, clock=clock)
        with self._locked():
            if (folder / KEY).exists():
                raise AuthorityUnusable(
                    f"{folder} holds the key of an authority already; choose another folder"
                )
            secret = new_key(key)
            certificate = new_authority(
                cluster, secret, lifetime=timedelta(seconds=lifetime_s), now=utc(clock())
            )
            files.write(folder / CERTIFICATE, certificate_pem(certificate))
            files.write(folder / KEY, key_pem(secret))
            self._certificate = certificate
            self._write(IssueLog())
        return self

    @classmethod
    def open(cls, folder: Path, *, clock: Callable[[], float] = time.time) -> Self:
        self = cls(folder, clock=clock)
        try:
            pem = (folder / CERTIFICATE).read_bytes()
            if not (folder / KEY).exists():
                raise AuthorityUnusable(f"{folder} has no {KEY}: this is no authority's own folder")
            if not files.is_private(folder / KEY):
                raise AuthorityUnusable(
                    f"others may read {folder / KEY}, and forge any node with it; chmod 600 it, or "
                    "make a new authority if somebody has"
                )
            self._certificate = x509.load_pem_x509_certificate(pem)
        except FileNotFoundError:
            raise AuthorityUnusable(
                f"{folder} holds no authority; make one with `tether ca init {folder}`"
            ) from None
        except (OSError, ValueError) as error:
            raise _unusable(folder, error) from error
        if cluster_of(self._certificate) is None:
            raise AuthorityUnusable(f"{folder / CERTIFICATE} is of no authority of Tether's")
        return self

    @property
    def cluster(self) -> str:
        return cluster_of(self._certificate) or ""

    def listed(self) -> tuple[Issued, ...]:
        """What was issued, oldest first; those that ended a month ago are forgotten."""
        return self._read().issued

    def folder_of(self, node: str) -> Path:
        """Where the files of `node` are put unless told otherwise."""
        return self.folder / "nodes" / node

    def issue(
        self,
        node: str,
        *,
        lifetime_s: float = DAY,
        key: KeyKind = "ed25519",
        to: Path | None = None,
        roles: Iterable[str] = (),
    ) -> Issued:
        """Makes a key and a certificate for `node`, which may say what nodes with these `roles`
        may, and puts them into the folder `to`.

        Raises:
            ValueError: `node` is no name, the lifetime is not positive, or the roles are none of a
                node, or of an operator.
        """
        name = NodeName(self.cluster, node)
        if lifetime_s <= 0:
            raise ValueError(f"a certificate can't live for {lifetime_s:g} s")
        told = _roles_of(name, roles)
        with self._locked():
            return self._issue(name, lifetime_s, key, to or self.folder_of(node), told)

    def renew(
        self,
        node: str,
        *,
        lifetime_s: float | None = None,
        to: Path | None = None,
        roles: Iterable[str] = (),
    ) -> Issued:
        """As `issue`, for a node that has a certificate; kind of key, lifetime and roles stay as
        they were unless given. The older certificate is good until its end.

        Raises:
            AuthorityUnusable: `node` has none, or its newest one was revoked, or says no roles.
            ValueError: the roles are none of a node, or of an operator.
        """
        name = NodeName(self.cluster, node)
        with self._locked():
            known = [one for one in self._read().issued if one.node == node]
            if not known:
                raise AuthorityUnusable(
                    f"node {node} has no certificate; `tether ca issue {node}` makes one"
                )
            last = known[-1]
            if last.revoked_at:
                raise AuthorityUnusable(
                    f"the certificate of node {node} was revoked; if it may come back, "
                    f"`tether ca issue {node}`"
                )
            lived = lifetime_s or last.ends_at - last.begins_at
            told = tuple(roles) or last.roles
            if not told and not node.startswith(OPERATOR):
                raise AuthorityUnusable(
                    f"the certificate of node {node} is of an earlier release and says no roles; "
                    f"say them: `tether ca renew {node} --roles ROLE,…`"
                )
            told = _roles_of(name, told)
            return self._issue(name, lived, last.key, to or self.folder_of(node), told)

    def revoke(self, which: str) -> tuple[Issued, ...]:
        """Revokes all certificates of a node that haven't ended, or the one of a serial, and
        writes the list, into the folders of the nodes as well. Returns those that weren't
        revoked before.

        Raises:
            AuthorityUnusable: there is none.
        """
        now = self._clock()
        with self._locked():
            ledger = self._read()
            serial = which.replace(":", "").lower().removeprefix("0x").lstrip("0")
            chosen = {
                one.serial
                for one in ledger.issued
                if one.serial == serial or (one.node == which and one.ends_at > now)
            }
            if not chosen:
                raise AuthorityUnusable(
                    f"no living certificate has the node or serial {which[:100]}; "
                    "`tether ca list` shows them"
                )
            issued = tuple(
                msgspec.structs.replace(one, revoked_at=now)
                if one.serial in chosen and not one.revoked_at
                else one
                for one in ledger.issued
            )
            self._write(msgspec.structs.replace(ledger, issued=issued))
        before = {one.serial for one in ledger.issued if one.revoked_at}
        return tuple(one for one in issued if one.serial in chosen - before)

    def _issue(
        self, name: NodeName, lifetime_s: float, kind: KeyKind, to: Path, roles: tuple[str, ...]
    ) -> Issued:
        now = self._clock()
        ledger = self._read()
        try:
            authority_key = read_key((self.folder / KEY).read_bytes())
        except (OSError, ValueError) as error:
            raise _unusable(self.folder, error) from error
        key = new_key(kind)
        certificate = new_certificate(
            name,
            key,
            authority=self._certificate,
            authority_key=authority_key,
            lifetime=timedelta(seconds=lifetime_s),
            now=utc(now),
            roles=roles,
        )
        issued = Issued(
            serial=f"{certificate.serial_number:x}",
            node=name.node,
            key=kind,
            begins_at=float(int(now)),
            ends_at=certificate.not_valid_after_utc.timestamp(),
            roles=roles,
        )
        # The ledger first: what isn't in it can't be revoked by name.
        self._write(msgspec.structs.replace(ledger, issued=(*ledger.issued, issued)))
        try:
            files.make_folder(to)
            files.write(to / CERTIFICATE, certificate_pem(self._certificate))
            files.write(to / REVOKED, (self.folder / REVOKED).read_bytes())
            # Key and certificate in one file, so that a node never sees one without the other.
            files.write(to / NODE, key_pem(key) + certificate_pem(certificate))
        except OSError as error:
            raise _unusable(to, error) from error
        return issued

    def _read(self) -> IssueLog:
        try:
            return msgspec.json.decode((self.folder / LEDGER).read_bytes(), type=IssueLog)
        except (OSError, *UNREADABLE) as error:
            raise _unusable(self.folder / LEDGER, error) from error

    def _write(self, ledger: IssueLog) -> None:
        now = self._clock()
        kept = tuple(one for one in ledger.issued if one.ends_at + _REMEMBERED_S > now)
        ledger = IssueLog(list_number=ledger.list_number + 1, issued=kept)
        try:
            revoked = new_list(
                [(int(one.serial, 16), utc(one.revoked_at)) for one in kept if one.revoked_at],
                number=ledger.list_number,
                authority=self._certificate,
                authority_key=read_key((self.folder / KEY).read_bytes()),
                now=utc(now),
            )
            # A ledger without its list would lose a revocation, a list without its ledger is
            # written again.
            files.write(self.folder / REVOKED, revoked)
            files.write(self.folder / LEDGER, msgspec.json.encode(ledger))
            for folder in sorted((self.folder / "nodes").glob("*/")):
                files.write(folder / REVOKED, revoked)
        except (OSError, ValueError) as error:
            raise _unusable(self.folder, error) from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise _unusable(self.folder, error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _roles_of(name: NodeName, roles: Iterable[str]) -> tuple[str, ...]:
    """
    Raises:
        ValueError: a node has none of them, or an operator has any.
    """
    found = checked(roles)
    operator = name.node.startswith(OPERATOR)
    if operator and found:
        raise ValueError(f"{name.node} is an operator, and has no roles: those are of nodes")
    if not found and not operator:
        raise ValueError(f"the certificate of node {name.node} needs roles, or it may say nothing")
    return found


def _unusable(path: Path, error: Exception) -> AuthorityUnusable:
    why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return AuthorityUnusable(f"the authority's files at {path} can't be used: {why}")
