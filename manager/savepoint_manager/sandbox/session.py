"""The directories of a sandbox outside of it.

They go when the session ends, and by the supervisor if the front end was killed. Both can be: so
each of them holds a lock, and a directory that nobody holds goes when the next session is made.

Threads: any.
"""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from . import seccomp, supervisor

if sys.platform != "win32":  # where this is imported, and no more
    import fcntl

_PREFIX = "savepoint-sandbox-"


@dataclass(frozen=True, slots=True)
class Session:
    """The directories of one sandbox.

    Args:
        root: a directory that only its owner may enter.
        lock: descriptor that keeps others from removing it.
    """

    root: Path
    lock: int

    @classmethod
    def make(cls) -> Session:
        """Make the directories, and remove those that were left."""
        base = os.path.realpath(tempfile.gettempdir())
        if len(os.fsencode(base)) > 60:  # a socket's path may have 107 bytes
            base = "/tmp"
        for name in os.listdir(base):
            if name.startswith(_PREFIX):
                _remove_if_left(os.path.join(base, name))
        unlocked = Path(tempfile.mkdtemp(prefix=f".{_PREFIX}", dir=base))
        lock = supervisor.hold(str(unlocked))
        session = cls(unlocked.rename(unlocked.with_name(unlocked.name[1:])), lock)
        for directory in (session.home, session.temporary, session.sockets):
            directory.mkdir(mode=0o700)
        session.connection_file.touch(mode=0o600)
        (session.root / supervisor.FILTER).write_bytes(seccomp.program())
        return session

    def remove(self) -> None:
        """Remove all of it."""
        supervisor.remove(str(self.root))
        os.close(self.lock)

    @property
    def home(self) -> Path:
        """Home directory in the sandbox. The timeline's store is in it."""
        return self.root / "home"

    @property
    def temporary(self) -> Path:
        """/tmp in the sandbox. On disk: a tmpfs would be memory that no limit counts."""
        return self.root / "tmp"

    @property
    def connection_file(self) -> Path:
        """The kernel's copy: ipykernel writes into it."""
        return self.root / "connection.json"

    @property
    def sockets(self) -> Path:
        """Sockets of the connection: the only directory with the same path inside and outside."""
        return self.root / "ipc"


def _remove_if_left(root: str) -> None:
    """Remove a directory of ours that nobody holds."""
    with suppress(FileNotFoundError, PermissionError):  # gone by now; another user's
        found = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            if os.fstat(found).st_uid == os.getuid():
                fcntl.flock(found, fcntl.LOCK_EX | fcntl.LOCK_NB)
                supervisor.remove(root)
        except BlockingIOError:
            return  # it is in use
        finally:
            os.close(found)
