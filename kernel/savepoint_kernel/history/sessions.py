"""Where a session's store is, whose it is, and what to do if it can't be had.

    <Jupyter data directory>/savepoint/key               signs commits
    <Jupyter data directory>/savepoint/sessions/<name>/  one store each
                                              /session   what it is a session of

The name of a session is the one configured; else made of the notebook's path, which jupyter_server
passes in ``JPY_SESSION_NAME``; else of the kernel's connection key, which a restart keeps and no
other kernel has. A session of the last kind ends with its kernel: it is removed then, unless it has
named checkpoints. What is left for other reasons goes by `expiry`.

A store is removed under its own lock, by renaming it: who opens it meanwhile has all of it or makes
a new one, and a process killed in between leaves a directory that is no session any more. A file
``removing`` tells who finds the lock held that it will soon be free. Windows can't rename a
directory in which a file is open, so there nothing is removed.

Threads: the main thread; `remove` and `Origin` any.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from jupyter_core.paths import jupyter_data_dir

from ..exceptions import CorruptStore, StoreLocked, UntrustedStore
from .lock import StoreLock
from .signing import SigningKey, default_key_path
from .store import Durability, Store

REMOVED = ".savepoint-removed-"
"""How the name of a directory begins that is being deleted."""

_REMOVING = "removing"
_PATIENCE = 5.0
"""Seconds to wait for a store that is being removed: that takes a millisecond, or as long as a busy
disk makes a rename wait."""

_ORIGIN = "session"
_ORIGIN_BYTES = 10_000
_OF_KERNEL = re.compile(r"kernel-[0-9a-f]{24}(-[0-9a-f]{8})?")

Kind = Literal["notebook", "named", "kernel"]


@dataclass(frozen=True, slots=True)
class Origin:
    """What a session is of, as a small file in its directory says.

    Attributes:
        kind: "notebook"; "named" by the user; "kernel", of a kernel without a notebook.
        notebook: path of the notebook; "" if there is none.
        beside: the session whose store could not be had, so that this one was made; "" if none.
    """

    kind: Kind
    notebook: str = ""
    beside: str = ""

    @classmethod
    def of(cls, directory: Path) -> Origin:
        """Return what a session is of; "named", which is kept longest, if nothing says so."""
        with suppress(OSError, ValueError, TypeError, RecursionError):
            with open(directory / _ORIGIN, "rb") as file:
                content = json.loads(file.read(_ORIGIN_BYTES))
            origin = cls(**content)
            # The store may be anybody's.
            if origin.kind in get_args(Kind) and all(isinstance(v, str) for v in content.values()):
                return origin
        return cls("kernel" if _OF_KERNEL.fullmatch(directory.name) else "named")

    def write(self, directory: Path) -> None:
        """Put it into a session's directory, if it is not there."""
        if Origin.of(directory) == self and (directory / _ORIGIN).exists():
            return
        draft = directory / f"{_ORIGIN}.new"
        with suppress(OSError):  # without it the session is only kept longer
            draft.write_text(json.dumps(asdict(self)), "ascii")
            os.replace(draft, directory / _ORIGIN)


@dataclass(frozen=True, slots=True)
class SessionStore:
    """An open store.

    Attributes:
        store: the store.
        directory: where it is.
        lasting: False if it is to go with the kernel.
        refused: the session's own store, if that could not be had.
    """

    store: Store
    directory: Path
    lasting: bool
    refused: Path | None = None

    def close(self, keep: bool) -> None:
        """Write what is left and close; remove a store that nobody will come back to."""
        self.store.close()
        if not keep and not self.lasting:
            with suppress(OSError, StoreLocked):
                remove(self.directory)


def sessions_root(configured: str) -> Path:
    """Return the directory that sessions are in."""
    return Path(configured or Path(jupyter_data_dir(), "savepoint", "sessions"))


def session_name(configured: str, connection_key: bytes) -> tuple[str, Origin]:
    """Return the name of this kernel's session, and what it is of."""
    if configured:
        return safe_name(configured), Origin("named")
    notebook = os.environ.get("JPY_SESSION_NAME", "")
    if notebook:
        digest = hashlib.sha256(notebook.encode("utf-8", "surrogateescape")).hexdigest()[:12]
        return f"{safe_name(Path(notebook).stem)}-{digest}", Origin("notebook", notebook)
    return f"kernel-{hashlib.sha256(connection_key).hexdigest()[:24]}", Origin("kernel")


def safe_name(name: str) -> str:
    """Return a session's name as its directory has it."""
    return re.sub(r"[^\w.-]+", "_", name).strip(".")[:80] or "session"


def open_store(
    directory: str,
    session: str,
    connection_key: bytes,
    durability: Durability,
    quota: int | None,
) -> tuple[SessionStore, list[str]]:
    """Open the store of this kernel's session.

    Returns:
        The store, and what the user is to be told.

    Raises:
        OSError: the directory can't be written to.
    """
    root = sessions_root(directory)
    name, origin = session_name(session, connection_key)
    lasting = origin.kind != "kernel"
    key = SigningKey.load(default_key_path())

    def opened(place: Path, origin: Origin) -> Store:
        store = Store.open(place, key, durability=durability, quota=quota)
        if durability != "memory":
            origin.write(place)
            with suppress(OSError):  # of a process that was killed
                (place / _REMOVING).unlink(missing_ok=True)
        return store

    until = time.monotonic() + _PATIENCE
    tried = False
    while True:
        try:
            return SessionStore(opened(root / name, origin), root / name, lasting), []
        except (StoreLocked, CorruptStore, UntrustedStore) as error:
            # There may be nothing to see of a removal that is done by now: try at least twice.
            waits = not tried or (root / name / _REMOVING).exists()
            tried = True
            if isinstance(error, StoreLocked) and waits and time.monotonic() < until:
                time.sleep(0.01)
                continue
            fresh = root / f"{name}-{uuid.uuid4().hex[:8]}"
            notice = f"{error}\nThe commits of this kernel go to a store of its own: {fresh}\n"
            if isinstance(error, UntrustedStore):
                notice += "%savepoint trust shows what is in the other one, and asks\n"
            beside = Origin(origin.kind, origin.notebook, beside=name)
            return SessionStore(opened(fresh, beside), fresh, lasting, root / name), [notice]


def remove(directory: Path, agreed: Callable[[], bool] = lambda: True) -> bool:
    """Remove a session that is not open.

    Args:
        directory: of the session.
        agreed: asked once nobody else can open it; if False, it stays.

    Returns:
        Whether it is gone.

    Raises:
        StoreLocked: it is open.
        OSError: it is not there, or can't be renamed.
    """
    gone = directory.with_name(f"{REMOVED}{uuid.uuid4().hex}")
    marker = directory / _REMOVING
    marker.touch(mode=0o600)
    try:
        lock = StoreLock(directory / "lock")
        try:
            if not agreed():
                return False
            os.rename(directory, gone)
        finally:
            lock.release()
    finally:
        marker.unlink(missing_ok=True)
    shutil.rmtree(gone, ignore_errors=True)
    return True
