"""The iopub channel: published from the thread that has something to say.

Stock ipykernel queues every iopub message to an "IOPub" thread. Here the publishing thread sends
itself (`sockets.SharedSocket`); the IOPub thread is left with what needs a loop: subscriptions,
messages of forked children, and the timers of `output.OutputBuffer`.

Memory is bounded under a flood. zmq drops silently for a subscriber whose queue is full, and a
queue of 1000 big messages is large. So messages are kept small (`output.CHUNK`), the queue is
`QUEUE_LENGTH` messages long, and a full queue holds the writer back. A subscriber that takes
nothing for `STUCK_AFTER` seconds is given up on: until it takes a message again, output is dropped
and counted. Status, results and errors are kept for it all the same.

Letting zmq drop for that subscriber alone would spare the others, but zmq then passes it over, for
every message and without a word, until half of its queue is read.

Threads: `send_multipart` any. A user thread waits while the queue is full; service threads leave
their message queued and go on.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import zmq
from ipykernel.iostream import IOPubThread
from ipykernel.thread import BaseThread

from .interrupts import Interrupts
from .output import OutputBuffer
from .sockets import Frames, SharedSocket, send_all

if TYPE_CHECKING:
    from jupyter_client.session import Session

QUEUE_LENGTH = 500
"""Messages zmq may hold for one subscriber (ZMQ_SNDHWM)."""

STUCK_AFTER = 5.0
"""Seconds without progress after which a subscriber is no longer waited for."""

BACKLOG = 64
"""Messages of other threads the one that is sending may have before it, until writers wait for it.
It sends them soon, but on a busy machine it may not run for a while."""

IOPUB_THREAD_NAME = "IOPub"
"""As ipykernel calls it."""

_RETRY = 0.005
_WAIT = 0.002
_TOPIC, _PARENT, _CONTENT = 0, 4, 6
"""Frame numbers in [topic, delimiter, signature, header, parent, metadata, content, *buffers]."""

_KEPT = (b".status", b".execute_input", b".execute_result", b".error", b".shutdown")
"""Messages that no subscriber loses, however full its queue."""

_NOT_OUTPUT = (b".status", b".execute_input", b".shutdown", b".debug_event")


@dataclass(slots=True)
class Meter:
    """Output of the cell that runs now."""

    msg_id: bytes = b""
    output_bytes: int = 0
    dropped_bytes: int = 0

    def start(self, msg_id: str) -> None:
        """Count from zero for the request ``msg_id``."""
        self.output_bytes = self.dropped_bytes = 0
        self.msg_id = msg_id.encode()

    def count(self, frames: Frames) -> None:
        """Count one message if it is output of the cell."""
        if (
            self.msg_id
            and len(frames) > _CONTENT
            and self.msg_id in frames[_PARENT]
            and not frames[_TOPIC].endswith(_NOT_OUTPUT)
        ):
            self.output_bytes += sum(map(len, frames[_CONTENT:]))


class PubSocket(SharedSocket):
    """XPUB whose senders notice a subscriber that does not keep up."""

    def __init__(self, *args: Any, meter: Meter) -> None:
        super().__init__(*args)
        self._meter = meter
        self._full_since: float | None = None
        self.socket.setsockopt(zmq.XPUB_NODROP, 1)

    @property
    def full(self) -> bool:
        """True while messages wait: for room in a subscriber's queue, or too many for a sender."""
        waiting = len(self._outbox)
        return waiting > BACKLOG or (waiting > 0 and self._full_since is not None)

    def _drain(self) -> None:
        while self._outbox and self._lock.acquire(blocking=False):
            try:
                while self._outbox and self._publish(*self._outbox[0]):
                    self._outbox.popleft()
                stuck = bool(self._outbox)
                waiting = self._receiving and self._readable()
            finally:
                self._lock.release()
            if waiting:
                self.io_loop.add_callback(self.receive)
            if stuck:
                self.io_loop.add_callback(self.io_loop.call_later, _RETRY, self._drain)
                return

    def _publish(self, frames: Frames, copy: bool) -> bool:
        """Send one message; return False if a subscriber's queue is full and may yet move."""
        try:
            send_all(self.socket, frames, copy, zmq.NOBLOCK)
        except zmq.Again:
            if frames[_TOPIC].endswith(_KEPT):
                # Few and small, and whoever comes back waits for them.
                self.socket.setsockopt(zmq.SNDHWM, 0)
                send_all(self.socket, frames, copy)
                self.socket.setsockopt(zmq.SNDHWM, QUEUE_LENGTH)
                return True
            now = time.monotonic()
            if self._full_since is None:
                self._full_since = now
            if now - self._full_since < STUCK_AFTER:
                return False
            self._meter.dropped_bytes += sum(map(len, frames[_CONTENT:]))
        else:
            self._full_since = None
        return True


class IOPub(IOPubThread):  # type: ignore[misc]
    """ipykernel's iopub thread with sends from the calling thread.

    Args:
        socket: the bound XPUB socket.
        session: signs messages.
        interrupts: keeps SIGINT from cutting a send.
        interval: seconds between two flushes of a burst of output.
    """

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        session: Session,
        interrupts: Interrupts,
        interval: float,
    ) -> None:
        self.meter = Meter()
        self.interrupts = interrupts
        super().__init__(socket, pipe=True, session=session)
        self.shared = PubSocket(
            socket, self.io_loop, self._on_subscription, interrupts, meter=self.meter
        )
        self.output = OutputBuffer(self, session, interrupts, interval)

    def _setup_xpub_listener(self) -> None:
        """Subscriptions arrive through the shared socket instead of a stream of their own."""

    def _on_subscription(self, frames: Frames) -> None:
        self._handle_subscription([frame.bytes for frame in frames])

    def _send_welcome_message(self, subscription: str) -> None:
        content = {"subscription": subscription}
        topic = subscription.encode()
        self.session.send(self, "iopub_welcome", content, parent={}, ident=topic or None)

    def start(self) -> None:
        """Start the thread and listen for subscriptions."""
        super().start()
        self.shared.start()

    def stop(self) -> None:
        """Stop the thread; what is published afterwards is sent by the caller as before."""
        if self.thread.is_alive():
            self.io_loop.add_callback(self.shared.stop)
        super().stop()

    def send_multipart(self, frames: Frames, *args: Any, **kwargs: Any) -> None:
        """Publish one message. Any thread."""
        if not self._is_master_process():
            # A forked child: the base class pipes the message to its parent.
            super().send_multipart(frames, *args, **kwargs)
            return
        if self.closed:
            return
        self.meter.count(frames)
        self.shared.send_multipart(frames, *args, **kwargs)
        self.wait_for_room()

    def wait_for_room(self) -> bool:
        """Hold a user thread back while a subscriber's queue is full. SIGINT ends the wait.

        Returns:
            True if there is room; False for a service thread if there is none.
        """
        while self.shared.full:
            if _is_service_thread():
                return False
            time.sleep(_WAIT)
            self.shared._drain()
        return True


def _is_service_thread() -> bool:
    thread = threading.current_thread()
    return isinstance(thread, BaseThread) or thread.name == IOPUB_THREAD_NAME
