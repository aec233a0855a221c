"""The guard: ends kernels of other kernelspecs when the process they belong to has ended.

A kernel belongs to the daemon until it is adopted, then to the process that adopted it. It knows
neither: only Savepoint's own kernels watch a pidfd (`savepoint_kernel.parent`), and the signal a
process can have at its parent's death is of no use where the parent is another one. The daemon
can't watch for it, as kernels outlive it. So there is one small process for all of them:

    python -I -S guard.py DESCRIPTOR     (a SOCK_SEQPACKET connection to the daemon)

    "PID" with a pidfd of the kernel            it belongs to the daemon
    "PID" with that, and a pidfd of a process   it belongs to that process from now on
    "PID"                                       it belongs to nobody

It ends when the daemon and all kernels have. It runs without the package, and takes 6 MiB.

Threads: one.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import time

GRACE = 5.0
"""Seconds from SIGTERM to SIGKILL."""


class Kernel:
    """A process that is watched, the leader of its process group.

    Args:
        pid: its.
        pidfd: the same, for good.
        owner: a descriptor that becomes readable when the process it belongs to has ended.
    """

    def __init__(self, pid: int, pidfd: int, owner: int) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.owner = owner
        self.kill_at: float | None = None

    def signal(self, number: int) -> None:
        """Send a signal to its process group."""
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):
            return  # it has just ended, and its pidfd says so next; or it is another user's by now


class Guard:
    """Watches.

    Args:
        daemon: the connection to it.
    """

    def __init__(self, daemon: socket.socket) -> None:
        self._daemon = daemon
        self._kernels: dict[int, Kernel] = {}

    def run(self) -> None:
        """Watch until there is nothing left to watch."""
        listens = True
        while listens or self._kernels:
            ready = self._wait(listens)
            for kernel in list(self._kernels.values()):
                self._look_after(kernel, ready)
            if listens and self._daemon.fileno() in ready:
                listens = self._listen()

    def _wait(self, listens: bool) -> set[int]:
        poll = select.poll()
        if listens:
            poll.register(self._daemon, select.POLLIN)
        deadlines = []
        for kernel in self._kernels.values():
            poll.register(kernel.pidfd, select.POLLIN)
            if kernel.kill_at is None:
                poll.register(kernel.owner, select.POLLIN)
            else:
                deadlines.append(kernel.kill_at)
        wait = max(0.0, min(deadlines) - time.monotonic()) * 1000 if deadlines else None
        return {descriptor for descriptor, _ in poll.poll(wait)}

    def _look_after(self, kernel: Kernel, ready: set[int]) -> None:
        if kernel.pidfd in ready:
            if kernel.kill_at is not None:
                kernel.signal(signal.SIGKILL)  # to those of its group that SIGTERM did not end
            self._forget(kernel)
        elif kernel.kill_at is not None:
            if time.monotonic() >= kernel.kill_at:
                kernel.signal(signal.SIGKILL)
                kernel.kill_at += GRACE  # in a system call it may take longer than that
        elif kernel.owner in ready and kernel.owner != self._daemon.fileno():
            self._end(kernel)

    def _listen(self) -> bool:
        """Read what the daemon says; False if that is nothing any more."""
        try:
            message, descriptors, _, _ = socket.recv_fds(self._daemon, 64, 2)
        except ConnectionResetError:
            message, descriptors = b"", []
        if not message:
            for kernel in self._kernels.values():
                if kernel.owner == self._daemon.fileno():
                    self._end(kernel)
            return False
        pid = int(message)
        if pid in self._kernels:
            self._forget(self._kernels[pid])
        if descriptors:
            pidfd, owner = [*descriptors, self._daemon.fileno()][:2]
            self._kernels[pid] = Kernel(pid, pidfd, owner)
        return True

    def _end(self, kernel: Kernel) -> None:
        kernel.signal(signal.SIGTERM)
        kernel.kill_at = time.monotonic() + GRACE

    def _forget(self, kernel: Kernel) -> None:
        del self._kernels[kernel.pid]
        os.close(kernel.pidfd)
        if kernel.owner != self._daemon.fileno():
            os.close(kernel.owner)


if __name__ == "__main__":
    Guard(socket.socket(fileno=int(sys.argv[1]))).run()
