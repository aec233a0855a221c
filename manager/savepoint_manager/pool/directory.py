"""The directory of the pool: its socket, its log, and nobody else's.

Threads: none of its own.
"""

from __future__ import annotations

import os
from pathlib import Path

from savepoint_kernel.launch import SOCKET

LOG = "pool.log"

MAX_ADDRESS = 107
"""Bytes of a socket's path (sun_path in <sys/un.h>)."""


def private_directory(path: str) -> Path:
    """Make the pool's directory, or make sure that it is nobody else's.

    Raises:
        PermissionError: it is, or others may enter it.
        OSError: it can't be made, or its path is too long for a socket.
    """
    directory = Path(path).absolute()
    length = len(os.fsencode(directory / SOCKET))
    if length > MAX_ADDRESS:
        raise OSError(
            f"{directory} is too long for the path of a socket by {length - MAX_ADDRESS} bytes: "
            "name another in SAVEPOINT_POOL_DIR"
        )
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = directory.stat()
    if status.st_uid != os.getuid():
        raise PermissionError(f"{directory} belongs to user {status.st_uid}: remove it")
    if status.st_mode & 0o077:  # not ours to change: it may be there for something else
        raise PermissionError(f"{directory} is open to other users: chmod 700 it, or remove it")
    return directory
