"""A zmq socket that any thread may send on and one event loop receives from.

zmq sockets are not thread-safe, so kernels hand frames to the thread that owns the socket. Each
such hop costs a wake-up and, worse, a fight for the GIL: measured on the way of ``1+1``, the reply
waited 0.4 ms of 4.3 ms for the owning thread to get its turn. Here senders take a lock and send
themselves. Two things make that safe:

* **Flat combining.** Frames go to a queue; whoever holds the lock empties it. A sender that finds
  the lock taken leaves: its frames are sent by the holder, in order. Nobody ever waits.
* **Edge-triggered reads.** A send may consume the readiness edge of the socket's file descriptor,
  after which a waiting message would stay unread. So after sending, the holder asks the socket
  itself and wakes the reader if something is there.

Threads: `send_multipart` any; `_receive` the thread of ``io_loop``; the socket itself only under
``_lock``.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import repeat
from typing import Any, TypeVar

import zmq
import zmq.backend
from tornado.ioloop import IOLoop

from .interrupts import Interrupts

T = TypeVar("T")

Frames = list[Any]
"""The parts of one multipart message: bytes or zmq.Frame."""


_send_part = zmq.backend.Socket.send
"""The C method; `zmq.Socket.send` wraps it in Python."""


def send_all(socket: zmq.Socket[bytes], frames: Frames, copy: bool = True, flags: int = 0) -> None:
    """Send one multipart message in a single C call.

    `Socket.send_multipart` is a Python loop, in which a signal handler may run and raise between
    two parts; the peer then sees a message cut in half. ``deque(map(...))`` over a C method runs no
    bytecode of this thread between the parts, so all of them are sent or none.

    Raises:
        zmq.Again: nothing was sent (only with ``zmq.NOBLOCK`` in ``flags``).
    """
    more = [*repeat(flags | int(zmq.SNDMORE), len(frames) - 1), flags]
    deque(map(partial(_send_part, socket), frames, more, repeat(copy)), maxlen=0)


class SharedSocket:
    """Send from any thread, receive on one loop; looks enough like a ZMQStream for ``Session``.

    Args:
        socket: a bound socket nobody else touches from now on.
        io_loop: the running loop whose thread receives.
        on_message: called there with the frames (``zmq.Frame``) of each message.
        interrupts: keeps SIGINT from raising while the main thread sends.
    """

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        io_loop: IOLoop,
        on_message: Callable[[Frames], None],
        interrupts: Interrupts,
    ) -> None:
        self.socket = socket
        self.io_loop = io_loop
        self._on_message = on_message
        self._interrupts = interrupts
        self._lock = threading.Lock()
        self._outbox: deque[tuple[Frames, bool]] = deque()
        self._receiving = False
        self.on_unroutable: Callable[[Frames], None] = lambda frames: None
        """Called, by the sender, with a message for a peer that is not connected.

        Only with ``zmq.ROUTER_MANDATORY``; without it zmq drops such messages.
        """

    def start(self) -> None:
        """Begin to receive. Any thread."""
        self.io_loop.add_callback(self._start)

    def _start(self) -> None:
        self._receiving = True
        self.io_loop.add_handler(self.socket.FD, self._on_readable, IOLoop.READ)
        self.receive()

    def stop(self) -> None:
        """Stop receiving. Only the thread of ``io_loop``."""
        if self._receiving:
            self._receiving = False
            self.io_loop.remove_handler(self.socket.FD)

    def use(self, do: Callable[[zmq.Socket[bytes]], T]) -> T:
        """Do something with the socket while nobody sends or receives. Any thread."""
        with self._interrupts.held(), self._lock:
            done = do(self.socket)
        self.io_loop.add_callback(self.receive)
        return done

    def send_multipart(
        self, frames: Frames, flags: int = 0, copy: bool = True, track: bool = False, **kwargs: Any
    ) -> None:
        """Send one message, or leave it to the thread that is sending. Never blocks."""
        with self._interrupts.held():
            self._outbox.append((frames, copy))
            self._drain()

    def on_recv(self, callback: Callable[..., Any], copy: bool = True) -> None:
        """Do nothing: ipykernel sets its own dispatcher here, messages go to ``on_message``."""

    def flush(self, flag: int = 0, limit: int | None = None) -> int:
        """Do nothing: nothing is ever held back. There because a ZMQStream has it."""
        return 0

    def _drain(self) -> None:
        # The loop condition is checked again after the lock was released: frames queued by a thread
        # that found the lock taken are then ours to send.
        while self._outbox and self._lock.acquire(blocking=False):
            try:
                while self._outbox:
                    self._send(*self._outbox.popleft())
                waiting = self._receiving and self._readable()
            finally:
                self._lock.release()
            if waiting:
                self.io_loop.add_callback(self.receive)

    def _send(self, frames: Frames, copy: bool) -> None:
        try:
            send_all(self.socket, frames, copy)
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            self.on_unroutable(frames)

    def _readable(self) -> bool:
        """Tell whether a message has arrived; the lock is held."""
        return bool(int(self.socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN)

    def _on_readable(self, fd: int, events: int) -> None:
        self.receive()

    def receive(self) -> None:
        """Deliver every message that has arrived. Only the thread of ``io_loop``."""
        while self._receiving:
            with self._lock:
                if not self._readable():
                    break
                frames = self.socket.recv_multipart(zmq.NOBLOCK, copy=False)
            self._on_message(frames)
        # Frames another thread queued while we held the lock are ours to send.
        self._drain()
