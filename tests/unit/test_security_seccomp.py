"""The filter of system calls, run as the kernel runs it."""

from __future__ import annotations

import errno
import socket
import struct

import pytest

from supervision.security import seccomp

X86_64, I386 = 0xC000003E, 0x40000003
OPEN, READ, SOCKET, CLONE, IOCTL, SOCKETPAIR = 257, 0, 41, 56, 16, 53
ALLOWED = 0
STREAM, DATAGRAM = int(socket.SOCK_STREAM), int(socket.SOCK_DGRAM)


def verdict(number: int, *arguments: int, arch: int = X86_64, tcp: bool = False) -> int:
    """What becomes of a call: its errno, or `ALLOWED`. The machine of seccomp(2), as far as the
    filter uses it."""
    words = [*arguments, *[0] * (6 - len(arguments))]
    seen = struct.pack("=IIQ6Q", number, arch, 0, *words)
    code, at, loaded = seccomp.instructions(seccomp.program(tcp=tcp)), 0, 0
    while True:
        operation, then, otherwise, value = code[at]
        at += 1
        if operation == 0x20:
            (loaded,) = struct.unpack_from("=I", seen, value)
        elif operation == 0x54:
            loaded &= value
        elif operation == 0x06:
            return ALLOWED if value == 0x7FFF0000 else value & 0xFFFF
        else:
            holds = {
                0x15: loaded == value,
                0x35: loaded >= value,
                0x45: bool(loaded & value),
            }[operation]
            at += then if holds else otherwise


@pytest.mark.parametrize("tcp", [False, True])
def test_each_forbidden_call_is_refused_and_others_are_not(tcp: bool):
    for name, number in seccomp.FORBIDDEN.items():
        assert verdict(number, tcp=tcp) == errno.EPERM, name
    for number in (OPEN, READ, 9, 202, 231):
        assert verdict(number, tcp=tcp) == ALLOWED


def test_other_doors_into_the_kernel_are_closed():
    assert verdict(READ, arch=I386) == errno.EPERM
    assert verdict(0x40000000 | READ) == errno.EPERM


def test_threads_may_be_made_and_namespaces_not():
    threads = 0x3D0F00  # as pthread_create has it
    assert verdict(CLONE, threads) == ALLOWED
    assert verdict(CLONE, 17) == ALLOWED  # SIGCHLD alone: fork
    assert verdict(CLONE, 0x10000000 | 17) == errno.EPERM
    assert verdict(435) == errno.ENOSYS  # clone3, so that libc takes clone


def test_nobody_types_into_a_terminal():
    assert verdict(IOCTL, 2, 0x5412) == verdict(IOCTL, 2, 0x541C) == errno.EPERM
    assert verdict(IOCTL, 2, 0x5401) == ALLOWED


def test_new_sockets():
    inet, inet6, unix, netlink = 2, 10, 1, 16
    flags = int(socket.SOCK_CLOEXEC) | int(socket.SOCK_NONBLOCK)
    for family in (inet, inet6, unix, netlink, 17, 38):
        for kind in (STREAM, DATAGRAM, 3):
            assert verdict(SOCKET, family, kind) == errno.EACCES
    for family in (inet, inet6):
        assert verdict(SOCKET, family, STREAM | flags, tcp=True) == ALLOWED
        assert verdict(SOCKET, family, DATAGRAM | flags, tcp=True) == errno.EACCES
        assert verdict(SOCKET, family, 3, tcp=True) == errno.EACCES
        for protocol in (6, 132, 262):  # TCP by its name, SCTP, Multipath TCP
            assert verdict(SOCKET, family, STREAM, protocol, tcp=True) == errno.EACCES
    assert verdict(SOCKET, netlink, 3, tcp=True) == ALLOWED
    assert verdict(SOCKET, netlink, 3, 9, tcp=True) == errno.EACCES  # NETLINK_AUDIT
    for family in (unix, 17, 38, 40):
        assert verdict(SOCKET, family, STREAM, tcp=True) == errno.EACCES


@pytest.mark.parametrize("tcp", [False, True])
def test_pairs_are_streams_as_datagrams_go_to_any_path(tcp: bool):
    flags = int(socket.SOCK_CLOEXEC) | int(socket.SOCK_NONBLOCK)
    assert verdict(SOCKETPAIR, 1, STREAM | flags, tcp=tcp) == ALLOWED
    for kind in (DATAGRAM, DATAGRAM | flags, 3, 5):
        assert verdict(SOCKETPAIR, 1, kind, tcp=tcp) == errno.EACCES


def test_nothing_connects_by_sending():
    fast, quiet = int(socket.MSG_FASTOPEN), int(socket.MSG_NOSIGNAL)
    for call in ((44, 3, 0, 1), (46, 3, 0), (307, 3, 0, 1)):  # sendto, sendmsg, sendmmsg
        assert verdict(*call, quiet, tcp=True) == ALLOWED
        assert verdict(*call, quiet | fast, tcp=True) == errno.EPERM
