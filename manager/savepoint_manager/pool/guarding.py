"""The guard's process (`guard`), as the daemon has it.

It is started before the first kernel, and anew when it was killed: the daemon remembers which
kernel belongs to whom until that has ended.

Threads: the daemon's event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

from .reaper import Reaper

_PROGRAM = Path(__file__).with_name("guard.py")

_AGAIN = 0.5
"""Seconds until one that has ended is started anew: the next may end at once, too."""


class Guard:
    """Has kernels ended when the process they belong to has.

    Args:
        reaper: waits for it, and for the kernels.
        log_file: its stderr.
    """

    def __init__(self, reaper: Reaper, log_file: IO[Any]) -> None:
        self._reaper = reaper
        self._log_file = log_file
        self._owners: dict[int, int | None] = {}
        """A pidfd by kernel; None for the daemon."""
        self._sock = self._start()

    def watch(self, pid: int) -> None:
        """Have a kernel, which the daemon has just started, ended with the daemon."""
        self._owners[pid] = None
        self._reaper.status(pid).add_done_callback(lambda _: self._forget(pid))
        self._tell(pid)

    def hand_over(self, pid: int, owner: int | None) -> None:
        """Have a kernel ended when another process than the daemon has.

        Args:
            pid: the kernel's.
            owner: pidfd of that process; None to let it live as long as it likes.
        """
        if pid in self._owners:  # else it has ended by itself
            self._forget(pid)
            if owner is not None:
                self._owners[pid] = os.dup(owner)
            self._tell(pid)

    def _forget(self, pid: int) -> None:
        owner = self._owners.pop(pid, None)
        if owner is not None:
            os.close(owner)

    def _tell(self, pid: int) -> None:
        descriptors = []
        with contextlib.ExitStack() as opened:
            if pid in self._owners:
                try:
                    descriptors.append(os.pidfd_open(pid))
                except ProcessLookupError:
                    return  # it has just ended
                opened.callback(os.close, descriptors[0])
                owner = self._owners[pid]
                descriptors += [] if owner is None else [owner]
            with contextlib.suppress(ConnectionError):  # it was killed; the next is told, too
                socket.send_fds(self._sock, [str(pid).encode()], descriptors)

    def _start(self) -> socket.socket:
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_PROGRAM), str(its.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=self._log_file,
                stderr=self._log_file,
                pass_fds=[its.fileno()],
                start_new_session=True,
            )
        process.returncode = 0  # it is the reaper that waits for it, not Popen
        self._reaper.status(process.pid).add_done_callback(self._start_later)
        return ours

    def _start_later(self, _: object = None) -> None:
        asyncio.get_running_loop().call_later(_AGAIN, self._start_anew)

    def _start_anew(self) -> None:
        try:
            sock = self._start()
        except OSError:
            self._start_later()
            raise  # the loop logs it
        self._sock.close()
        self._sock = sock
        for pid in self._owners:
            self._tell(pid)
