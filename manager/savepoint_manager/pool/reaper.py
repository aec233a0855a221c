"""The end of processes whose parent is the daemon, or became it.

The daemon is a subreaper: what its zygotes leave behind is its child.

Threads: the daemon's event loop.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import time

_PR_SET_CHILD_SUBREAPER = 36
"""From <sys/prctl.h>."""

KEPT = 60.0
"""Seconds the status of a child is kept that nobody has asked for yet. Most are orphans of kernels
nobody will ask for, and a number comes to mean another process some day."""


class Reaper:
    """Waits for all children of this process; use it on the running loop's main thread."""

    def __init__(self) -> None:
        self._waiting: dict[int, asyncio.Future[int]] = {}
        self._ended: dict[int, tuple[int, float]] = {}

    def start(self) -> None:
        """Become the parent of orphans, and wait for children.

        Raises:
            OSError: the system can't do that.
        """
        if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "PR_SET_CHILD_SUBREAPER")
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self._reap)

    def status(self, pid: int) -> asyncio.Future[int]:
        """Return the exit status a child will have: negative for a signal."""
        future = self._waiting.get(pid)
        if future is None:
            future = self._waiting[pid] = asyncio.get_running_loop().create_future()
            future.add_done_callback(lambda _: self._waiting.pop(pid, None))
            if pid in self._ended:
                future.set_result(self._ended.pop(pid)[0])
        return future

    def discard(self, pid: int) -> None:
        """Wait for a child nobody will ask for."""
        self.status(pid)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            code = os.waitstatus_to_exitcode(status)
            future = self._waiting.get(pid)
            if future is None:
                now = time.monotonic()
                self._ended = {
                    other: ended for other, ended in self._ended.items() if ended[1] > now - KEPT
                }
                self._ended[pid] = (code, now)
            elif not future.done():
                future.set_result(code)
