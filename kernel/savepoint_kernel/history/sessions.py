"""Where a session's store is, and what to do if it can't be had.

    <Jupyter data directory>/savepoint/key               signs commits
    <Jupyter data directory>/savepoint/sessions/<name>/  one store each

The name of a session is the one configured; else made of the notebook's path, which jupyter_server
passes in ``JPY_SESSION_NAME``; else of the kernel's connection key, which a restart keeps and no
other kernel has. A session of the last kind ends with its kernel: it is removed then, unless it has
named checkpoints.

Threads: the main thread.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

from jupyter_core.paths import jupyter_data_dir

from ..exceptions import CorruptStore, StoreLocked, UntrustedStore
from .signing import SigningKey
from .store import Durability, Store


@dataclass(frozen=True, slots=True)
class SessionStore:
    """An open store.

    Attributes:
        store: the store.
        directory: where it is.
        lasting: False if it is to go with the kernel.
    """

    store: Store
    directory: Path
    lasting: bool

    def close(self, keep: bool) -> None:
        """Write what is left and close; remove a store that nobody will come back to."""
        self.store.close()
        if not keep and not self.lasting:
            shutil.rmtree(self.directory, ignore_errors=True)


def session_name(configured: str, connection_key: bytes) -> tuple[str, bool]:
    """Return the name of this kernel's session, and whether it outlasts the kernel."""
    if configured:
        return _safe(configured), True
    notebook = os.environ.get("JPY_SESSION_NAME", "")
    if notebook:
        digest = hashlib.sha256(notebook.encode("utf-8", "surrogateescape")).hexdigest()[:12]
        return f"{_safe(Path(notebook).stem)}-{digest}", True
    return f"kernel-{hashlib.sha256(connection_key).hexdigest()[:24]}", False


def _safe(name: str) -> str:
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
    root = Path(directory or Path(jupyter_data_dir(), "savepoint", "sessions"))
    name, lasting = session_name(session, connection_key)
    key = SigningKey.load(Path(jupyter_data_dir(), "savepoint", "key"))
    notices: list[str] = []
    try:
        store = Store.open(root / name, key, durability=durability, quota=quota)
        return SessionStore(store, root / name, lasting), []
    except (StoreLocked, CorruptStore, UntrustedStore) as error:
        fresh = root / f"{name}-{uuid.uuid4().hex[:8]}"
        notices.append(f"{error}\nThe commits of this kernel go to a store of its own: {fresh}\n")
        store = Store.open(fresh, key, durability=durability, quota=quota)
        return SessionStore(store, fresh, lasting), notices
