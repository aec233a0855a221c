"""The directory of the pool: its socket, its log, and nobody else's.

Threads: none of its own.
"""

from __future__ import annotations

import os
from pathlib import Path

LOG = "pool.log"


def private_directory(path: str) -> Path:
    """Make the pool's directory, or make sure that it is nobody else's.

    Raises:
        PermissionError: it is.
    """
    directory = Path(path)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = directory.stat()
    if status.st_uid != os.getuid():
        raise PermissionError(f"{directory} belongs to user {status.st_uid}: remove it")
    if status.st_mode & 0o077:
        directory.chmod(0o700)
    return directory
