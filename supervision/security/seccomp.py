"""A seccomp filter: system calls that a process has no use for fail from now on, for ever (Linux on
x86-64).

The program is that of linux/filter.h, put together here: libseccomp comes in no wheel, and a list
of numbers needs no compiler. What isn't forbidden is allowed, as libraries change what they call;
for files, Landlock is the fence. It binds all threads of the process.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import socket
import struct
from collections.abc import Sequence
from typing import Final

# linux/bpf_common.h, linux/filter.h
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_NR, _ARCH = 0, 4  # of struct seccomp_data; the arguments follow, 8 bytes each
_ARGUMENTS: Final = 16
_X86_64: Final = 0xC000003E  # AUDIT_ARCH_X86_64
_X32: Final = 0x40000000
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000  # SECCOMP_RET_*
_SECCOMP: Final = 317
_SET_FILTER, _TSYNC = 1, 1  # SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC
_NO_NEW_PRIVS: Final = 38
_LONGEST_JUMP: Final = 255

#: Numbers of x86-64 (arch/x86/entry/syscalls/syscall_64.tbl).
FORBIDDEN: Final = {
    # other processes
    "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "process_madvise": 440,
    "process_mrelease": 448, "pidfd_getfd": 438, "kcmp": 312,
    # namespaces and mounts
    "mount": 165, "umount2": 166, "pivot_root": 155, "chroot": 161, "setns": 308, "unshare": 272,
    "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432,
    "fspick": 433, "mount_setattr": 442, "swapon": 167, "swapoff": 168,
    # the kernel
    "bpf": 321, "perf_event_open": 298, "userfaultfd": 323, "kexec_load": 246,
    "kexec_file_load": 320, "init_module": 175, "finit_module": 313, "delete_module": 176,
    "reboot": 169, "syslog": 103, "acct": 163, "quotactl": 179, "quotactl_fd": 443, "iopl": 172,
    "ioperm": 173, "modify_ldt": 154, "uselib": 134, "vhangup": 153, "lookup_dcookie": 212,
    "fanotify_init": 300, "name_to_handle_at": 303, "open_by_handle_at": 304,
    "settimeofday": 164, "clock_settime": 227, "adjtimex": 159, "clock_adjtime": 305,
    "sethostname": 170, "setdomainname": 171,
    # keys of the kernel
    "add_key": 248, "request_key": 249, "keyctl": 250,
    # whoever listens: a node's sockets by path, and addresses where Landlock fences no TCP
    "connect": 42,
    # io_uring opens and connects past this filter
    "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427,
    # what Landlock doesn't forbid of files
    "chmod": 90, "fchmod": 91, "fchmodat": 268, "fchmodat2": 452, "chown": 92, "fchown": 93,
    "lchown": 94, "fchownat": 260, "setxattr": 188, "lsetxattr": 189, "fsetxattr": 190,
    "setxattrat": 463, "removexattr": 197, "lremovexattr": 198, "fremovexattr": 199,
    "removexattrat": 466, "mknod": 133, "mknodat": 259,
    # who one is
    "setuid": 105, "setgid": 106, "setreuid": 113, "setregid": 114, "setgroups": 116,
    "setresuid": 117, "setresgid": 119, "setfsuid": 122, "setfsgid": 123,
}  # fmt: skip
_SOCKET, _SOCKETPAIR, _CLONE, _CLONE3, _IOCTL = 41, 53, 56, 435, 16
_NEW_NAMESPACES: Final = 0x7E020000  # CLONE_NEW*
_TYPE_INTO_TERMINAL: Final = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX
_INET: Final = (int(socket.AF_INET), int(socket.AF_INET6))
_NETLINK: Final = 16
_STREAM, _TYPE = int(socket.SOCK_STREAM), 0xF
_FLAGS_OF_SENDS: Final = ((44, 3), (46, 2), (307, 3))  # sendto, sendmsg, sendmmsg: which argument
_FAST_OPEN: Final = 0x20000000  # MSG_FASTOPEN, which connects


class Program:
    """A filter that is being put together: an answer for each kind of call, then "allowed"."""

    def __init__(self) -> None:
        self._code: list[tuple[int, int, int, int]] = []

    def test(self, code: int, value: int, *, then: int = 0, otherwise: int = 0) -> None:
        """Skip so many instructions if it holds, or so many if it doesn't."""
        assert 0 <= then <= _LONGEST_JUMP
        assert 0 <= otherwise <= _LONGEST_JUMP
        self._code.append((code, then, otherwise, value))

    def load(self, offset: int) -> None:
        self._code.append((_LOAD, 0, 0, offset))

    def mask(self, bits: int) -> None:
        self._code.append((_AND, 0, 0, bits))

    def allow(self) -> None:
        self._code.append((_RETURN, 0, 0, _ALLOW))

    def refuse(self, number: int = errno.EPERM) -> None:
        self._code.append((_RETURN, 0, 0, _ERRNO | number))

    def instructions(self) -> bytes:
        """As struct sock_filter, each 8 bytes."""
        return b"".join(struct.pack("=HBBI", *one) for one in self._code)


def program(*, tcp: bool) -> bytes:
    """The filter. New sockets are refused, and pairs of connected ones but streams, since datagrams
    go to any path. With `tcp`, sockets of TCP, which connect to nobody, and of netlink's routes, by
    which a process sees its own addresses, are not; other protocols are, as Landlock fences TCP
    alone."""
    made = Program()
    made.load(_ARCH)
    made.test(_EQUAL, _X86_64, then=1)
    made.refuse()
    made.load(_NR)
    made.test(_AT_LEAST, _X32, otherwise=1)
    made.refuse()
    for number in sorted(FORBIDDEN.values()):
        made.test(_EQUAL, number, otherwise=1)
        made.refuse()
    made.test(_EQUAL, _CLONE3, otherwise=1)  # its flags lie in memory; libc falls back to clone
    made.refuse(errno.ENOSYS)
    made.test(_EQUAL, _CLONE, otherwise=4)
    made.load(_ARGUMENTS)
    made.test(_ANY_BIT, _NEW_NAMESPACES, otherwise=1)
    made.refuse()
    made.allow()
    made.test(_EQUAL, _IOCTL, otherwise=5)
    made.load(_ARGUMENTS + 8)
    made.test(_EQUAL, _TYPE_INTO_TERMINAL[0], then=1)
    made.test(_EQUAL, _TYPE_INTO_TERMINAL[1], otherwise=1)
    made.refuse()
    made.allow()
    made.test(_EQUAL, _SOCKETPAIR, otherwise=5)
    made.load(_ARGUMENTS + 8)
    made.mask(_TYPE)
    made.test(_EQUAL, _STREAM, then=1)
    made.refuse(errno.EACCES)
    made.allow()
    if tcp:
        for number, argument in _FLAGS_OF_SENDS:
            made.test(_EQUAL, number, otherwise=4)
            made.load(_ARGUMENTS + 8 * argument)
            made.test(_ANY_BIT, _FAST_OPEN, otherwise=1)
            made.refuse()
            made.allow()
    made.test(_EQUAL, _SOCKET, then=1)
    made.allow()
    if tcp:
        made.load(_ARGUMENTS)
        made.test(_EQUAL, _NETLINK, then=5)
        made.test(_EQUAL, _INET[0], then=1)
        made.test(_EQUAL, _INET[1], otherwise=6)
        made.load(_ARGUMENTS + 8)
        made.mask(_TYPE)
        made.test(_EQUAL, _STREAM, otherwise=3)
        made.load(_ARGUMENTS + 16)
        made.test(_EQUAL, 0, otherwise=1)  # of TCP, not Multipath TCP or SCTP; NETLINK_ROUTE
        made.allow()
    made.refuse(errno.EACCES)
    return made.instructions()


class _Filter(ctypes.Structure):
    """struct sock_fprog"""

    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_char_p)]


def install(code: bytes) -> None:
    """
    Raises:
        OSError: the kernel has no such filters, or not on this machine.
    """
    if platform.machine() != "x86_64":
        raise OSError(errno.ENOSYS, f"no filter was written for {platform.machine()}")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_NO_NEW_PRIVS, *map(ctypes.c_ulong, (1, 0, 0, 0))):
        raise _failed()
    made = _Filter(len(code) // 8, code)
    libc.syscall.restype = ctypes.c_long
    answer = libc.syscall(
        ctypes.c_long(_SECCOMP),
        ctypes.c_long(_SET_FILTER),
        ctypes.c_long(_TSYNC),
        ctypes.byref(made),
    )
    if answer:  # or the id of a thread that could not follow
        raise _failed() if answer < 0 else OSError(errno.EBUSY, f"thread {answer} is out of reach")


def instructions(code: bytes) -> Sequence[tuple[int, int, int, int]]:
    """What `Program.instructions` has packed: operation, jumps, value."""
    return [struct.unpack("=HBBI", code[at : at + 8]) for at in range(0, len(code), 8)]


def _failed() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"seccomp: {os.strerror(number)}")
