"""What a user may do with stores as a whole: list the sessions, trust one, delete one.

Nothing here unpickles anything.

Threads: any.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..exceptions import CheckpointNotFound, CorruptStore
from . import log
from .commit import decode
from .expiry import Usage, sessions
from .lock import is_locked
from .opening import StoreInfo, inspect
from .sessions import Origin, SessionStore, remove, sessions_root
from .signing import SigningKey
from .store import CommitRecord, Store, TrustReport


@dataclass(frozen=True, slots=True)
class Session:
    """A session, as it is listed.

    Attributes:
        name: of its directory.
        origin: what it is a session of.
        time: of its last commit, in seconds since the epoch; when it was last written to, if that
            is not known.
        commits: how many it has; None if that can't be read.
        size: bytes on disk.
        is_open: whether a kernel has it open.
    """

    name: str
    origin: Origin
    time: float
    commits: int | None
    size: int
    is_open: bool


@dataclass(frozen=True, slots=True)
class Contents:
    """What is in a store nobody vouches for.

    Attributes:
        directory: of the store.
        info: its commits; `CommitInfo.label` is what each cell begins with.
        key: id of the user's key.
    """

    directory: Path
    info: StoreInfo
    key: bytes

    @property
    def foreign(self) -> int:
        """How many commits are not signed by the user."""
        return sum(not commit.signed for commit in self.info.commits)

    @property
    def forged(self) -> int:
        """How many say they are signed by the user, and are not."""
        return sum(not c.signed and c.key_id == self.key for c in self.info.commits)


class Sessions:
    """The sessions in a directory.

    Args:
        directory: as configured.
        opened: the store of this kernel; None if it has none.

    Attributes:
        root: the directory.
        own: that of this kernel's store.
        refused: that of the store it wanted and could not have.
    """

    def __init__(self, directory: str, opened: SessionStore | None) -> None:
        self.root = sessions_root(directory)
        self.own = None if opened is None else opened.directory
        self.refused = None if opened is None else opened.refused

    def all(self) -> list[Session]:
        """List the sessions, the one that was written to last first."""
        if not self.root.is_dir():
            return []
        found = []
        for directory in sessions(self.root):
            try:
                found.append(_session(directory))
            except FileNotFoundError:  # it was removed just now, or a part of it
                continue
        return sorted(found, key=lambda session: -session.time)

    def find(self, name: str) -> Path:
        """Return the directory of a session.

        Raises:
            CheckpointNotFound: there is none of this name.
        """
        for directory in sessions(self.root) if self.root.is_dir() else ():
            if directory.name == name:
                return directory
        raise CheckpointNotFound(
            f"{self.root} has no session {name!r}; %savepoint sessions lists those it has"
        )

    def delete(self, name: str) -> None:
        """Remove a session and all it has.

        Raises:
            CheckpointNotFound: there is none of this name.
            StoreLocked: it is open.
            OSError: it can't be removed.
        """
        remove(self.find(name))

    def look(self, wanted: str | None) -> Contents:
        """Look into a store without trusting it.

        Args:
            wanted: a session or a directory; None for the store this kernel could not have.

        Raises:
            CheckpointNotFound: there is no such store.
            CorruptStore: its format file is damaged.
            OSError: it can't be read.
        """
        if wanted is not None:
            directory = Path(wanted).expanduser()
            names = {path.name for path in sessions(self.root)} if self.root.is_dir() else set()
            if wanted in names or not directory.is_dir():
                directory = self.find(wanted)
        elif self.refused is not None:
            directory = self.refused
        else:
            raise CheckpointNotFound(
                "this kernel has the store of its session; name the one to trust: "
                "%savepoint trust DIRECTORY"
            )
        key = SigningKey.load()
        return Contents(directory.absolute(), inspect(directory, key, _label), key.id)

    def trust(self, seen: Contents) -> TrustReport:
        """Sign a store's commits; it is kept like one that the user has named then.

        Raises:
            StoreLocked: a kernel has it open.
            UntrustedStore: it is not the one that was looked into any more; nothing was signed.
            CorruptStore: its format file is damaged.
            OSError: it can't be written.
        """
        ids = {commit.id for commit in seen.info.commits}
        report = Store.trust(seen.directory, SigningKey.load(), _references, ids)
        Origin("named", Origin.of(seen.directory).notebook).write(seen.directory)
        return report


def _session(directory: Path) -> Session:
    usage = Usage.of(directory)
    time, count = usage.time, None
    with suppress(CorruptStore):
        commits = inspect(directory).commits
        count = len(commits)
        if commits:
            time = commits[-1].time / 1e9
    is_open = (directory / "lock").exists() and is_locked(directory / "lock")
    return Session(directory.name, Origin.of(directory), time, count, usage.size, is_open)


def _label(manifest: bytes) -> str:
    try:
        return str(decode(manifest).label)
    except Exception:  # JSON of any shape, so any error
        return "(can't be read)"


_MISSHAPEN = (AttributeError, LookupError, RecursionError, TypeError, ValueError, struct.error)


def _references(record: CommitRecord, read: Callable[[bytes], bytes]) -> Iterator[bytes]:
    try:
        yield from log.references(record, read)
    except _MISSHAPEN as error:
        raise CorruptStore(f"a commit makes no sense: {error!r}") from error
