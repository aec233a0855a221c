"""One writer per store: a lock that ends with the process that holds it.

`flock` rather than a file that is there or not: a killed kernel leaves nothing to clean up. And
rather than POSIX record locks: those are lost as soon as anything in the process closes the file.
A lock on the open file is inherited by a fork; the child closes its copy at once, or the store
would stay locked as long as any worker the user started.
"""

from __future__ import annotations

import os
import socket
import sys
import weakref
from pathlib import Path

from ..exceptions import StoreLocked

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl


class StoreLock:
    """The lock of one store, held from construction to `release`.

    Args:
        path: the lock file; it is made if needed and stays afterwards.

    Raises:
        StoreLocked: another process, or another store object in this one, holds it.
        FileNotFoundError: the directory is not there, or was moved away before it could be locked.
        OSError: the file can't be opened or written.
    """

    def __init__(self, path: Path) -> None:
        self._file = open(path, "a+b", buffering=0)  # noqa: SIM115 - open as long as the lock
        try:
            _lock(self._file.fileno())
        except BlockingIOError:
            self._file.seek(0)
            holder = self._file.read(100).decode("utf-8", "replace").strip() or "another process"
            self._file.close()
            raise StoreLocked(
                f"the store {path.parent} is in use by {holder}: "
                "shut that kernel down, or work on with a store of your own"
            ) from None
        except OSError:
            self._file.close()
            raise
        if not _is_in_place(self._file.fileno(), path):
            self._file.close()
            raise FileNotFoundError(f"the store {path.parent} was removed")
        _held.add(self)
        try:
            self._file.truncate(0)
            self._file.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        except OSError:
            self.release()
            raise

    def release(self) -> None:
        """Let others have the store."""
        _held.discard(self)
        self._file.close()


def is_locked(path: Path) -> bool:
    """Tell whether anyone holds the lock of this file.

    Raises:
        OSError: the file can't be opened.
    """
    with open(path, "r+b", buffering=0) as file:
        try:
            _lock(file.fileno())
        except BlockingIOError:
            return True
    return False


def _is_in_place(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


_held: weakref.WeakSet[StoreLock] = weakref.WeakSet()

if sys.platform == "win32":

    def _lock(descriptor: int) -> None:
        os.lseek(descriptor, 1 << 30, os.SEEK_SET)  # past the text: locked bytes can't be read
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            raise BlockingIOError(*error.args) from None

else:

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _close_inherited() -> None:
        for lock in list(_held):
            lock.release()

    os.register_at_fork(after_in_child=_close_inherited)
