"""stdout and stderr of user code as stream messages: at once, in order, bounded.

One `OutputBuffer` serves both streams, so their order is kept. A write that starts a burst is sent
by the writing thread itself as soon as its line is complete (a print is two writes); what follows
within ``interval`` is gathered and sent together. A line without an end, and the tail of a burst,
are sent by a timer on the IOPub thread. Stock ipykernel waits 200 ms for every flush and makes a
round trip to the IOPub thread six times per cell.

Memory is bounded: text is sent in pieces of at most `CHUNK` characters, at `LIMIT` buffered
characters the writer flushes, and the flush waits for the subscribers (`iopub`). Text is str all
the way, so no code point is ever split.

Threads: any thread writes and flushes. ``_lock`` guards the segments and is held only to take from
them; ``_send_lock`` keeps pieces in order and is never held while waiting for room.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TextIO

from ipykernel.iostream import OutStream as _OutStream

from .capture import FdCapture
from .interrupts import Interrupts

if TYPE_CHECKING:
    from jupyter_client.session import Session

    from .iopub import IOPub

CHUNK = 32 * 1024
"""Characters per stream message at most."""

PARTIAL = 0.01
"""Seconds a line without an end waits for it: print() writes text and end one after the other."""

LOOKS = 1000
"""Writes before which to look for output of C code and children that comes before them. A look is
two system calls, half the cost of a print. When as many found nothing, the cell is one that prints
from Python, and looks become rare."""

LOOK_INTERVAL = 0.0001
"""Seconds between two looks then."""

LIMIT = 64 * 1024
"""Buffered characters at which the writer sends."""


class _Segment:
    """Consecutive text of one stream for one parent message."""

    __slots__ = ("offset", "parent", "parts", "stream")

    def __init__(self, stream: OutStream, parent: Mapping[str, Any]) -> None:
        self.stream = stream
        self.parent = parent
        self.parts: deque[str] = deque()
        self.offset = 0
        """Characters of ``parts[0]`` already taken."""

    def take(self, size: int) -> str:
        """Remove and return up to ``size`` characters."""
        taken: list[str] = []
        while self.parts and size > 0:
            part, start = self.parts[0], self.offset
            if len(part) - start <= size:
                self.parts.popleft()
                self.offset = 0
                taken.append(part[start:] if start else part)
            else:
                self.offset += size
                taken.append(part[start : start + size])
            size -= len(taken[-1])
        return "".join(taken)


class OutputBuffer:
    """What has been written to stdout and stderr and not yet published.

    Args:
        iopub: where it is published, and whose loop runs the timer.
        session: signs messages.
        interrupts: keeps SIGINT from tearing a flush.
        interval: seconds between two flushes of a burst.
    """

    def __init__(
        self, iopub: IOPub, session: Session, interrupts: Interrupts, interval: float
    ) -> None:
        self._iopub = iopub
        self._session = session
        self._interrupts = interrupts
        self.interval = interval
        self.capture: FdCapture | None = None
        self._in_child = False
        self._reset()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._begin_child)

    def _begin_child(self) -> None:
        # Locks may be held by threads that do not exist here, and what the parent has buffered is
        # the parent's to send.
        self._reset()
        self._in_child = True

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._send_lock = threading.Lock()
        self._segments: deque[_Segment] = deque()
        self._last: _Segment | None = None
        self._size = 0
        self._next_flush = self._next_look = 0.0
        self._timer_set = False
        self._looks = LOOKS

    def write(self, stream: OutStream, text: str, *, complete: bool = False) -> None:
        """Add text of ``stream``, and send it or see to it that it is sent soon.

        Args:
            stream: stdout or stderr.
            text: any length.
            complete: send as if the text ended a line.
        """
        if self._in_child and stream.write_below(text):
            return
        now = time.monotonic()
        if self._looks or now >= self._next_look:
            self._look(now)
        parent = stream._parent_header.get(None)  # `parent_header`, without its detours
        if parent is None:
            parent = stream._parent_header_global
        with self._lock:
            segment = self._last
            if segment is None or segment.stream is not stream or segment.parent is not parent:
                self._last = segment = _Segment(stream, parent)
                self._segments.append(segment)
            segment.parts.append(text)
            self._size += len(text)
        complete = complete or text.endswith("\n")
        if (complete and now >= self._next_flush) or self._size >= LIMIT:
            self.flush()
        elif not self._timer_set:
            if self._in_child:
                self.flush()  # a forked child has no IOPub thread to do it later
                return
            self._set_timer()

    def _set_timer(self) -> None:
        loop = self._iopub.io_loop
        with self._interrupts.held():  # a timer that is said to be set and is not never comes
            self._timer_set = True
            loop.add_callback(loop.call_later, PARTIAL, self._on_timer)

    def _on_timer(self) -> None:
        """Send the tail of a burst, or a line without an end. On the IOPub thread."""
        wait = self._next_flush - time.monotonic()
        if wait > 0 and self._segments:
            self._iopub.io_loop.call_later(wait, self._on_timer)
            return
        self._timer_set = False
        if self._segments:
            self.flush()

    def flush(self) -> None:
        """Send everything written so far. Waits while a subscriber is behind; SIGINT ends that.

        A service thread does not wait; it leaves the rest to the timer. It must not send either, or
        it would empty for a fast writer the buffer whose size is what makes that writer wait.

        Raises:
            KeyboardInterrupt: in user code only. Of a flood, what was not yet sent is dropped and
                counted in the reply's ``dropped_bytes``.
        """
        try:
            while self._segments:
                if not self._iopub.wait_for_room():
                    if not self._timer_set:
                        self._set_timer()
                    return
                with self._interrupts.held(), self._send_lock:
                    self._send_piece()
        except KeyboardInterrupt:
            if self._size >= LIMIT:
                self._discard()
            raise

    def _send_piece(self) -> None:
        with self._lock:
            if not self._segments:
                return
            segment = self._segments[0]
            text = segment.take(CHUNK)
            self._size -= len(text)
            if not segment.parts:
                self._segments.popleft()
                if not self._segments:
                    self._last = None
        self._next_flush = time.monotonic() + self.interval
        if text:
            segment.stream.publish(text, segment.parent)

    def _discard(self) -> None:
        with self._interrupts.held(), self._lock:
            segments, self._segments = self._segments, deque()
            self._last = None
            self._size = 0
        for segment in segments:
            while text := segment.take(CHUNK):
                self._iopub.meter.dropped_bytes += len(text.encode("utf-8", "replace"))

    def settle(self) -> None:
        """Send everything, what C code and child processes wrote included. At the end of a cell."""
        self._looks = LOOKS
        self._drain_capture()
        self.flush()

    def _look(self, now: float) -> None:
        """See to it that what C code wrote before now is published before what follows."""
        self._next_look = now + LOOK_INTERVAL
        if self._looks:
            self._looks -= 1
        if self._drain_capture():
            self._looks = LOOKS

    def _drain_capture(self) -> bool:
        """Take in what C code and children have written; return whether there was something."""
        if self.capture is None or not self.capture.pending():
            return False
        # Conditions are Python code; an interrupt inside would leave their lock taken.
        with self._interrupts.held():
            self.capture.drain()
        return True


class OutStream(_OutStream):  # type: ignore[misc]
    """sys.stdout or sys.stderr of the kernel."""

    echo: TextIO | None
    pub_thread: IOPub | None
    _should_watch: bool

    def write(self, string: str) -> int:
        """Write ``string``; returns its length in characters.

        Raises:
            TypeError: it is not a str.
            ValueError: the stream is closed.
        """
        if not isinstance(string, str):
            raise TypeError(f"write() argument must be str, not {type(string).__name__}")
        if self.pub_thread is None:
            raise ValueError("I/O operation on closed file")
        if self.echo is not None:
            self._echo(string)
        if string:
            self.pub_thread.output.write(self, string)
        return len(string)

    def _echo(self, string: str) -> None:
        assert self.echo is not None
        try:
            self.echo.write(string)
            self.echo.flush()
        except OSError as error:
            # The terminal the kernel was started from is gone; the front end is not.
            self.echo = None
            self.write(f"Echo to the terminal stopped: {error}\n")

    def flush(self) -> None:
        """Send what was written so far to either stream."""
        if self.pub_thread is not None:
            self.pub_thread.output.flush()

    def write_below(self, text: str) -> bool:
        """Write to the captured file descriptor; returns False if there is none.

        For a forked child. Its messages would go through its parent on one connection each, and
        arrive in any order, perhaps after the cell has ended.
        """
        if not self._should_watch:
            return False
        data = text.encode("utf-8", "backslashreplace")
        while data:
            data = data[os.write(self._original_stdstream_fd, data) :]
        return True

    def publish(self, text: str, parent: Mapping[str, Any]) -> None:
        """Send one stream message, through the hooks registered for this thread."""
        # A forked child may send: its messages go through its parent (see IOPub.send_multipart).
        self.session.pid = os.getpid()
        message = self.session.msg("stream", {"name": self.name, "text": text}, parent=parent)
        for hook in self._hooks:
            message = hook(message)
            if message is None:
                return
        self.session.send(self.pub_thread, message, ident=self.topic)

    def _setup_stream_redirects(self, name: str) -> None:
        assert self.pub_thread is not None
        output = self.pub_thread.output
        if output.capture is None:
            output.capture = FdCapture()
        self._original_stdstream_fd = {"stdout": 1, "stderr": 2}[name]
        self._original_stdstream_copy = output.capture.add(
            self._original_stdstream_fd, lambda text: output.write(self, text, complete=True)
        )

    def close(self) -> None:
        """Close the stream and give the file descriptor back."""
        if self.pub_thread is None:
            return
        output = self.pub_thread.output
        if self._should_watch and output.capture is not None:
            self._should_watch = False
            output.capture.remove(self._original_stdstream_fd)
        self.pub_thread = None
