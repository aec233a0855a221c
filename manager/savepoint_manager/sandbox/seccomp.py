"""A filter of system calls, for what no namespace keeps apart: keyrings, and virtual machines.

The user's keys (Kerberos tickets, keys of encrypted file systems) are the same in all namespaces,
and so are sockets to the machine that this one runs on (vsock). io_uring makes sockets without the
call that is looked at, and 32-bit programs have numbers of their own: this system hasn't got them.

Threads: any.
"""

from __future__ import annotations

import errno
import os
import socket
import struct

_NUMBERS = {
    # architecture of the calls; add_key, request_key, keyctl; io_uring_setup; socket
    "x86_64": (0xC000003E, (248, 249, 250), 425, 41),
    "aarch64": (0xC00000B7, (217, 218, 219), 425, 198),
}
_X32 = 0x40000000
"""The lowest number of x86_64's other set of calls; no others are that high."""

_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # where these are in struct seccomp_data
_ALLOW, _FAIL = 0x7FFF0000, 0x00050000


def program() -> bytes:
    """Return the filter as bubblewrap reads it; nothing for an architecture that is not known."""
    if os.uname().machine not in _NUMBERS:
        return b""
    architecture, keys, io_uring, make_socket = _NUMBERS[os.uname().machine]
    missing = (_RETURN, 0, 0, _FAIL | errno.ENOSYS)
    # What is done, how many instructions are left out if it is true, if it is false; its operand.
    steps = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, architecture),
        missing,
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, 0, 1, _X32),
        missing,
        (_EQUAL, 0, 1, io_uring),
        missing,
    ]
    for number in keys:
        steps += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _FAIL | errno.EPERM)]
    steps += [
        (_EQUAL, 0, 3, make_socket),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_EQUAL, 0, 1, socket.AF_VSOCK),
        (_RETURN, 0, 0, _FAIL | errno.EAFNOSUPPORT),
        (_RETURN, 0, 0, _ALLOW),
    ]
    return b"".join(struct.pack("=HBBI", *step) for step in steps)
