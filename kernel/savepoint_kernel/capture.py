"""What C code and child processes write to file descriptors 1 and 2.

Each descriptor is replaced by a pipe; one thread reads both pipes, hands the text on, and repeats
the bytes on the original descriptor (a terminal, or the log of whoever started the kernel). Python
code writes to sys.stdout and does not come here.

Against stock ipykernel: text is decoded incrementally (stock decodes every 1000 bytes on their own
and breaks UTF-8), the pipe is 1 MiB where the system allows (64 KiB and C code that prints with the
GIL held is a deadlock: the reader needs the GIL), and `drain` tells when all that was written so
far has been read, so it can be published before the cell goes idle.

The limit that stays: C code that holds the GIL and prints more than the pipe holds blocks for good.

Threads: `FdCapture.run` is the reader. `drain` and `pending` any thread but the reader.
``_changed`` guards the counters; a read and its count are one step under it, else `drain` could
miss bytes that have left the pipe and are not yet counted. `pending` takes no lock and looks at
``reading`` instead.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import select
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

if sys.platform != "win32":
    import fcntl
    import struct
    import termios

PIPE_SIZE = 1 << 20
"""Bytes; the most an unprivileged process may ask for by default (fs.pipe-max-size)."""

_READ_SIZE = 1 << 16
_ECHO_SIZE = 4096
"""PIPE_BUF: a descriptor that polls writable takes this much without blocking."""

DRAIN_TIMEOUT = 1.0
"""Seconds a cell's end waits at most for a reader that gets no CPU."""


@dataclass(slots=True)
class _Pipe:
    fd: int
    read_end: int
    original: int
    emit: Callable[[str], object]
    decoder: codecs.IncrementalDecoder = field(
        default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace")
    )
    reading: bool = False
    """Bytes may have left the pipe that are not yet counted."""
    taken: int = 0
    emitted: int = 0

    def waiting(self) -> int:
        """Bytes in the pipe."""
        answer = fcntl.ioctl(self.read_end, termios.FIONREAD, b"\0\0\0\0")
        return int(struct.unpack("i", answer)[0])


class FdCapture(threading.Thread):
    """Reader of the pipes behind file descriptors 1 and 2. POSIX only."""

    def __init__(self) -> None:
        super().__init__(name="fd capture", daemon=True)
        # Tells debugpy that this thread is not the user's.
        self.pydev_do_not_trace = True
        self.is_pydev_daemon_thread = True
        self._changed = threading.Condition()
        self._pipes: dict[int, _Pipe] = {}
        self._wake_read, self._wake_write = os.pipe()

    def add(self, fd: int, emit: Callable[[str], object]) -> int:
        """Capture ``fd``; ``emit`` gets its text on the reader thread.

        Returns:
            A descriptor for where ``fd`` pointed before.
        """
        read_end, write_end = os.pipe()
        if hasattr(fcntl, "F_SETPIPE_SZ"):  # Linux, Python >= 3.10
            with contextlib.suppress(PermissionError):  # the user's pipe budget is used up
                fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        original = os.dup(fd)
        os.dup2(write_end, fd)
        os.close(write_end)
        with self._changed:
            self._pipes[read_end] = _Pipe(fd, read_end, original, emit)
        if not self.is_alive():
            self.start()
        os.write(self._wake_write, b"\0")
        return original

    def remove(self, fd: int) -> None:
        """Give ``fd`` back; what is still in the pipe is read to its end."""
        for pipe in list(self._pipes.values()):
            if pipe.fd == fd:
                os.dup2(pipe.original, fd)

    def run(self) -> None:
        """Read until every pipe has ended."""
        while True:
            with self._changed:
                ends = list(self._pipes)
            if not ends:
                return
            ready, _, _ = select.select([*ends, self._wake_read], [], [])
            for end in ready:
                if end == self._wake_read:
                    os.read(end, _READ_SIZE)
                else:
                    self._read(self._pipes[end])

    def _read(self, pipe: _Pipe) -> None:
        with self._changed:
            pipe.reading = True
            data = os.read(pipe.read_end, _READ_SIZE)
            pipe.taken += len(data)
            pipe.reading = False
        text = pipe.decoder.decode(data, final=not data)
        try:
            if text:
                pipe.emit(text)
        finally:
            with self._changed:
                pipe.emitted += len(data)
                if not data:
                    del self._pipes[pipe.read_end]
                    os.close(pipe.read_end)
                self._changed.notify_all()
        _echo(pipe.original, data)

    def pending(self) -> bool:
        """True if something was written that has not been handed on. Cheap; no lock."""
        if threading.current_thread() is self:
            return False
        # In the order in which bytes go, so that none passes unseen.
        return any(
            p.waiting() or p.reading or p.taken != p.emitted for p in list(self._pipes.values())
        )

    def drain(self) -> None:
        """Wait until all that has been written so far was handed on (at most `DRAIN_TIMEOUT`).

        A child that writes on and on does not hold this up: only what is there at the call counts.
        """
        if threading.current_thread() is self or not self.is_alive():
            return
        with self._changed:
            targets: list[tuple[Any, int]] = [
                (pipe, pipe.taken + pipe.waiting()) for pipe in self._pipes.values()
            ]
            self._changed.wait_for(
                lambda: all(pipe.emitted >= target for pipe, target in targets), DRAIN_TIMEOUT
            )


def _echo(fd: int, data: bytes) -> None:
    """Repeat ``data`` on ``fd`` as far as that does not block: it is a courtesy, not a record."""
    for start in range(0, len(data), _ECHO_SIZE):
        _, writable, _ = select.select([], [fd], [], 0)
        if not writable:
            return
        os.write(fd, data[start : start + _ECHO_SIZE])
