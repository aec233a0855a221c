"""The end of the process that asked for a kernel is the kernel's.

A kernel that a front end starts polls its parent process (ipykernel's ParentPollerUnix). A kernel
of the pool is no child of the front end; it holds a pidfd of it instead, which becomes readable
when that process ends and can't come to mean another one.

Threads: its own.
"""

from __future__ import annotations

import select
import threading
from collections.abc import Callable

from .exits import leave


class ParentWatch(threading.Thread):
    """Ends this process when another one has ended.

    Args:
        pidfd: of that process.
        flush: writes what is committed; may block.
    """

    def __init__(self, pidfd: int, flush: Callable[[], None]) -> None:
        super().__init__(name="Parent", daemon=True)
        self._pidfd = pidfd
        self._flush = flush

    def run(self) -> None:
        """Wait."""
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        poll.poll()
        # No SIGTERM to ourselves: its handler runs on the main thread, which a cell may hold.
        leave(1, self._flush)  # the status is that of ipykernel's poller
