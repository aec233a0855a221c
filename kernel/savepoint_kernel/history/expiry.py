"""Which sessions go by themselves, and the thread that sees to it.

A session goes some time after its last commit, or whatever else was written to it:

    of a notebook                                    `Savepoints.keep_days`
    of a kernel without one, which was killed        a day: it may be restarted under its key
    named by the user, or with a named checkpoint    `Savepoints.keep_named_days`, by default never
    made beside one of these that could not be had   as a notebook's, or as a kernel's

What can't be read is not judged, and stays; so does what was written in the future.

Time is that of the files, not that in the commits: no store is read before its time has come, and
each kernel may do this, though once a day is enough for all.

Threads: one of its own, which ends when it has looked; `stop` any.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from logging import Logger
from pathlib import Path

from ..exceptions import CorruptStore, StoreLocked
from .log import checkpoint_names
from .opening import inspect
from .recovery import FORMAT, INDEX, PACKS
from .sessions import REMOVED, Origin, remove

DAY = 86_400.0
KERNEL_DAYS = 1.0
"""Days that a session of a kernel without a notebook is kept."""

_LOOKED = ".savepoint-expiry"


@dataclass(frozen=True, slots=True)
class Limits:
    """Days after which sessions go; 0 means never.

    Attributes:
        notebooks: those of notebooks.
        named: those that have a name, or a checkpoint that has one.
    """

    notebooks: float
    named: float

    def of(self, origin: Origin) -> float:
        """Return the days for a session without named checkpoints."""
        if origin.kind == "kernel":
            return KERNEL_DAYS
        return self.named if origin.kind == "named" and not origin.beside else self.notebooks


@dataclass(frozen=True, slots=True)
class Usage:
    """What the file system says of a session.

    Attributes:
        time: when it was last written to, in seconds since the epoch.
        size: bytes of its packs.
    """

    time: float
    size: int

    @classmethod
    def of(cls, directory: Path) -> Usage:
        """Look at a session's packs.

        Raises:
            OSError: they can't be looked at.
        """
        packs = directory / PACKS
        times, size = [packs.stat().st_mtime], 0
        with os.scandir(packs) as entries:  # which may be gone by now
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                times.append(status.st_mtime)
                size += status.st_size
        return cls(max(times), size)


def sessions(root: Path) -> Iterator[Path]:
    """Yield the directories of sessions; others may be there, too, if the user chose the place.

    Raises:
        OSError: there is no such directory, or it can't be read.
    """
    for entry in sorted(os.scandir(root), key=lambda entry: entry.name):
        path = Path(entry.path)
        if entry.name.startswith(REMOVED) or not entry.is_dir(follow_symlinks=False):
            continue
        if (path / PACKS).is_dir() and ((path / FORMAT).exists() or (path / "lock").exists()):
            yield path


def expire(
    root: Path,
    limits: Limits,
    *,
    now: float | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> list[str]:
    """Remove the sessions whose time has come.

    Args:
        root: the directory they are in.
        limits: how long they are kept.
        now: seconds since the epoch; None for the present.
        stopped: asked before each one.

    Returns:
        The names of those removed.

    Raises:
        OSError: the directory can't be read.
    """
    now = time.time() if now is None else now
    for entry in os.scandir(root):
        if entry.name.startswith(REMOVED):  # by a process that was killed
            shutil.rmtree(entry.path, ignore_errors=True)
    removed = []
    for directory in sessions(root):
        if stopped():
            break
        # Open, removed by another kernel, or not to be read: it stays.
        with suppress(StoreLocked, CorruptStore, OSError):
            if _expire(directory, limits, now):
                removed.append(directory.name)
    return removed


def _expire(directory: Path, limits: Limits, now: float) -> bool:
    usage = Usage.of(directory)
    if _is_over(limits.of(Origin.of(directory)), usage, now):
        # Inspected before it is locked: that may take long, and who opens it would have to wait.
        checkpoints = checkpoint_names(inspect(directory).refs) if usage.size else []
        if not checkpoints or _is_over(limits.named, usage, now):
            return remove(directory, lambda: Usage.of(directory) == usage)
    _remove_damaged_index(directory, limits, now)
    return False


def _is_over(days: float, usage: Usage, now: float) -> bool:
    return 0 < days <= (now - usage.time) / DAY


def _remove_damaged_index(directory: Path, limits: Limits, now: float) -> None:
    """Remove an index that was set aside: it has nothing that the packs have not."""
    path = directory / f"{INDEX}.damaged"
    with suppress(FileNotFoundError):
        status = path.stat()
        if _is_over(limits.notebooks, Usage(status.st_mtime, status.st_size), now):
            path.unlink()


class Expiry:
    """Removes sessions some time after the kernel has started.

    Args:
        root: the directory they are in.
        limits: asked when it is time.
        log: is told what was removed.
    """

    def __init__(self, root: Path, limits: Callable[[], Limits], log: Logger) -> None:
        self._root = root
        self._limits = limits
        self._log = log
        self._stop = threading.Event()

    def start(self, delay: float) -> None:
        """Begin to wait.

        Args:
            delay: seconds until it looks.
        """
        threading.Thread(
            target=self._run, args=(delay,), name="savepoint-expiry", daemon=True
        ).start()

    def stop(self) -> None:
        """Look no more; what is being removed just now may be left half, for the next to finish."""
        self._stop.set()

    def _run(self, delay: float) -> None:
        if self._stop.wait(delay):
            return
        try:
            if not self._is_first_today():
                return
            removed = expire(self._root, self._limits(), stopped=self._stop.is_set)
        except OSError as error:
            self._log.warning("Old sessions in %s could not be removed: %s", self._root, error)
            return
        if removed:
            self._log.warning(
                "Not used for long, and removed from %s: %s", self._root, ", ".join(removed)
            )

    def _is_first_today(self) -> bool:
        """Tell whether no kernel has looked for a day, and take note that this one does."""
        path = self._root / _LOOKED
        if not self._root.is_dir():  # durability "memory", and nothing was ever kept
            return False
        with suppress(FileNotFoundError):
            if 0 <= time.time() - path.stat().st_mtime < DAY:
                return False
        path.touch(mode=0o600)
        return True
