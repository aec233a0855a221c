"""Whether who asks sees the same system as the daemon.

A container or sandbox may share the pool's directory and nothing else. A kernel of this pool would
have another root directory there, other processes or another network, and would be outside.

Threads: any.
"""

from __future__ import annotations

import functools
import os

NAMES = ("mnt", "pid", "net", "ipc", "uts", "user")


def foreign_namespace(pid: int) -> str | None:
    """Return the first of the namespaces of a process that is not ours, None if all are."""
    for name, ours in _ours().items():
        try:
            theirs = os.readlink(f"/proc/{pid}/ns/{name}")
        except OSError:  # we don't see it, or may not look
            return name
        if theirs != ours:
            return name
    return None


@functools.cache
def _ours() -> dict[str, str]:
    return {name: os.readlink(f"/proc/self/ns/{name}") for name in NAMES}
