"""Whether what a zygote has imported is still what would be imported.

A directory's time changes when a file is added, removed or replaced in it, as installers do. Of a
directory where other files lie too (notebooks, on PYTHONPATH) only those matter whose names are
those of modules; it is listed only when its time has changed.

Threads: none of its own.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Sequence

_State = tuple[int, int] | None
"""Time and inode; None if there is none, which is a state too: it may appear."""


class Fingerprint:
    """Tells whether files have changed since they were looked at.

    Args:
        paths: of files and directories.
        folders: directories where only some names matter.
        names: of modules: these.
    """

    def __init__(
        self, paths: Iterable[str], folders: Iterable[str] = (), names: Iterable[str] = ()
    ) -> None:
        self._states = {path: _state(path) for path in paths}
        self._names = frozenset(names)
        self._folders = {folder: (_state(folder), self._listed(folder)) for folder in folders}

    @property
    def name(self) -> str:
        """A short name: another one when something has changed."""
        listed = {folder: names for folder, (_, names) in self._folders.items()}
        described = repr((sorted(self._states.items()), sorted(listed.items())))
        return hashlib.sha256(described.encode("utf-8", "surrogatepass")).hexdigest()[:8]

    def changed(self) -> str | None:
        """Return a path that is not as it was, None if there is none."""
        for path, state in self._states.items():
            if _state(path) != state:
                return path
        for folder, (state, names) in self._folders.items():
            now = _state(folder)
            if now != state:
                if self._listed(folder) != names:
                    return folder
                self._folders[folder] = (now, names)
        return None

    def changed_since(self, moment: int) -> str | None:
        """Return a path that changed between a time, in ns, and now; None if there is none."""
        now = time.time_ns()
        for path, state in self._states.items():
            if state and moment <= state[0] <= now:
                return path
        return None

    def _listed(self, folder: str) -> Sequence[str]:
        try:
            entries = os.listdir(folder)
        except OSError:
            return []
        return sorted(entry for entry in entries if entry.partition(".")[0] in self._names)


def _state(path: str) -> _State:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino
