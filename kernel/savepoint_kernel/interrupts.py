"""When may SIGINT raise KeyboardInterrupt? Only inside user code.

Stock ipykernel arms Python's raising handler for the whole dispatch of a message, so a SIGINT that
races the end of a cell aborts the code that sends the reply, or cuts a multipart message in two
(measured there: 124-131 of 300 racing cells lost their reply). Here the handler is swapped at the
two edges of user code:

    outside user code    a handler that only takes note            (`Interrupts.install`)
    user code, sync      ``signal.default_int_handler``             (`Interrupts.arm`, `.disarm`)
    user code, awaiting  cancel the cell, or raise in blocking code (`Interrupts.cancelling`)
    sending, in between  a handler that takes note and re-delivers  (`Interrupts.held`)

The raising handler is the one `signal.default_int_handler` names because asyncio.run and trio test
for that identity before they install theirs. A handler the user installed is put aside at the end
of a cell and put back at the start of the next.

Threads: everything here belongs to the main thread, the only one Python runs signal handlers on.
On any other thread, and in a process whose kernel does not own the main thread, all is a no-op.
"""

from __future__ import annotations

import asyncio
import os
import selectors
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from tornado.ioloop import IOLoop

LATE = 0.5
"""Seconds; see `Interrupts.raising_late`."""

_LOOP_CODE = (str(Path(asyncio.__file__).parent), selectors.__file__)
"""Files whose frames mean: the main thread is parked in the event loop, not in user code."""


class Interrupts:
    """The SIGINT state of the kernel's main thread."""

    def __init__(self) -> None:
        self.enabled = threading.current_thread() is threading.main_thread()
        self.on_handled: Callable[[], None] = lambda: None
        """Called by every handler here, the raising one included."""
        self.on_lost: Callable[[], None] = lambda: None
        """Called when one raised where Python swallows errors, or where nothing may raise."""
        self.forgotten = 0
        """How often what had arrived stopped to count."""
        self._armed = False
        self._noted = False
        self._raise: Any = signal.default_int_handler
        self._cancel: Callable[[], None] = lambda: None
        self._cancel_or_raise_handler: Any = self._cancel_or_raise  # one object, for identity
        self._user_handler: Any = None

    def install(self) -> None:
        """Take SIGINT over; from now on it raises only between `arm` and `disarm`.

        Python's raising handler is replaced, under its own name, by one that tells: there is no
        other way to know whether a signal was handled (`Redelivery`). KeyboardInterrupt raised in a
        finalizer, a weak reference's callback or a fork hook is swallowed and goes to
        sys.unraisablehook; it is sent again.
        """
        if not self.enabled:
            return
        original = signal.default_int_handler

        def default_int_handler(signum: int, frame: FrameType | None) -> None:
            self.on_handled()
            original(signum, frame)

        default_int_handler.__doc__ = original.__doc__
        signal.default_int_handler = default_int_handler  # type: ignore[assignment]
        self._raise = self._user_handler = default_int_handler
        signal.signal(signal.SIGINT, self._note)
        report = sys.unraisablehook

        def report_or_send_again(unraisable: Any) -> None:
            interrupt = issubclass(unraisable.exc_type, KeyboardInterrupt)
            if interrupt and self.armed and self._owns_thread():
                self.on_lost()
            else:
                report(unraisable)

        sys.unraisablehook = report_or_send_again

    @property
    def armed(self) -> bool:
        """True while SIGINT raises and the handler is not one of the user's."""
        return self._armed and self._user_handler is self._raise

    @property
    def suspended(self) -> bool:
        """True while SIGINT does not raise and would again if it were armed."""
        return not self._armed and self._user_handler is self._raise

    @property
    def noted(self) -> bool:
        """True if an interrupt has arrived since `forget` that could not raise yet."""
        return self._noted

    def forget(self) -> None:
        """Drop an interrupt that arrived while no cell was running: it was meant for nobody."""
        self._noted = False
        self.forgotten += 1

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.on_handled()
        self._noted = True

    def arm(self) -> None:
        """Let SIGINT raise from here on; one noted since `forget` raises at once.

        Call it inside the ``try`` whose ``finally`` calls `disarm`: a context manager would leave a
        gap, between its entry and the block, in which an interrupt leaves SIGINT armed.

        Raises:
            KeyboardInterrupt: as any line after it may.
        """
        if self._owns_thread():
            self._armed = True
            signal.signal(signal.SIGINT, self._user_handler)
            if self._noted:
                self._noted = False
                signal.raise_signal(signal.SIGINT)

    def disarm(self) -> None:
        """Stop SIGINT from raising; may be called again.

        Raises:
            KeyboardInterrupt: an interrupt arrived before that was done. It is done all the same.
        """
        interrupted = None
        while self._armed:
            try:
                if not self._owns_thread():
                    return
                # Pending signals are handled inside this call, before the handler changes, so when
                # it returns nothing can raise any more.
                handler = signal.signal(signal.SIGINT, self._note)
                break
            except KeyboardInterrupt as error:
                interrupted = error
        else:
            return
        self._armed = False
        if handler is self._cancel_or_raise_handler:  # an interrupt kept `cancelling` from leaving
            handler = self._raise
        if handler is not None:
            self._user_handler = handler
        if interrupted is not None:
            raise interrupted

    def suspend(self) -> Any:
        """Stop SIGINT from raising for the kernel's own work inside a cell that awaits.

        Returns:
            What `resume` takes.
        """
        if not self._armed or not self._owns_thread():
            return None
        handler = signal.signal(signal.SIGINT, self._note)
        self._armed = False
        return handler

    def resume(self, suspended: Any) -> None:
        """Go back to where `suspend` was called; an interrupt noted meanwhile raises or cancels."""
        if suspended is not None:
            self._armed = True
            signal.signal(signal.SIGINT, suspended)
            if self._noted:
                self._noted = False
                signal.raise_signal(signal.SIGINT)

    @contextmanager
    def raising_late(self) -> Iterator[None]:
        """Let SIGINT raise in the block once that has taken `LATE` seconds.

        For users' code that the kernel calls between cells, and that may never end. An interrupt
        that only came too late for its cell is not meant for it. In a cell it raises as ever.

        Raises:
            KeyboardInterrupt: also as the block is left.
        """
        if self._armed or not self._owns_thread():
            yield
            return
        began = time.monotonic()

        def handle(signum: int, frame: FrameType | None) -> None:
            if time.monotonic() - began < LATE:
                self._note(signum, frame)
            else:
                self._raise(signum, frame)

        signal.signal(signal.SIGINT, handle)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, self._note)

    @contextmanager
    def cancelling(self, cancel: Callable[[], None]) -> Iterator[None]:
        """Make SIGINT end a cell that awaits.

        Parked in the event loop, the cell is cancelled; in blocking code (its own, a child task's,
        a callback's) KeyboardInterrupt is raised there.

        Args:
            cancel: cancels the cell. Called in a signal handler, so it must wake the loop by
                call_soon_threadsafe: a plain call_soon does not wake epoll, which is why stock
                kernels cannot interrupt an ``await``.
        """
        if not self._owns_thread() or signal.getsignal(signal.SIGINT) is not self._raise:
            yield
            return

        self._cancel = cancel
        signal.signal(signal.SIGINT, self._cancel_or_raise_handler)
        try:
            yield
        finally:
            if signal.getsignal(signal.SIGINT) is self._cancel_or_raise_handler:
                signal.signal(signal.SIGINT, self._raise)

    def _cancel_or_raise(self, signum: int, frame: FrameType | None) -> None:
        if frame is not None and frame.f_code.co_filename.startswith(_LOOP_CODE):
            self.on_handled()
            self._cancel()
        else:
            self._raise(signum, frame)

    def held(self, *, redeliver: bool = True) -> _Held:
        """Return a context manager that keeps SIGINT from raising inside its block.

        Args:
            redeliver: raise one that arrived meanwhile when the block is left; else drop it.
        """
        return _Held(self, self._armed and self._owns_thread(), redeliver)

    def guard_forks(self) -> None:
        """Keep SIGINT from raising inside fork hooks (IPython's history has one).

        Hooks registered last run first, so this is for when all others are registered.
        """
        suspended: list[Any] = []

        def before() -> None:
            if self._owns_thread():
                suspended.append(self.suspend())

        def after() -> None:
            if suspended:
                noted, self._noted = self._noted, False
                self.resume(suspended.pop())
                if noted and self._armed:
                    self.on_lost()

        if self.enabled and hasattr(os, "register_at_fork"):
            os.register_at_fork(before=before, after_in_parent=after, after_in_child=after)

    def _owns_thread(self) -> bool:
        return self.enabled and threading.current_thread() is threading.main_thread()


class _Held:
    """Delay SIGINT over a short critical section (a send, a buffer swap); re-entrant."""

    __slots__ = ("_active", "_interrupts", "_noted", "_redeliver", "_saved")

    def __init__(self, interrupts: Interrupts, active: bool, redeliver: bool) -> None:
        self._interrupts = interrupts
        self._redeliver = redeliver
        self._active = active
        self._noted = False
        self._saved: Any = None

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self._interrupts.on_handled()
        self._noted = True

    def __enter__(self) -> None:
        if self._active:
            self._saved = signal.signal(signal.SIGINT, self._note)

    def __exit__(self, *exc_info: object) -> None:
        if self._active:
            signal.signal(signal.SIGINT, self._saved)
            if self._noted and self._redeliver:
                signal.raise_signal(signal.SIGINT)


def without_handlers(error: BaseException) -> None:
    """Cut the frames of the handlers here off the end of an error's traceback."""
    tb = error.__traceback__
    while tb is not None and tb.tb_next is not None:
        if tb.tb_next.tb_frame.f_code.co_filename == __file__:
            tb.tb_next = None
        tb = tb.tb_next


class Redelivery:
    """Sends a SIGINT again that came just before the main thread entered a blocking call.

    CPython notes a signal in C and raises at the next bytecode. If it arrives after the last
    bytecode before a blocking system call, that call is not interrupted and nothing raises. The gap
    is small but well aimed: the main thread lets the GIL go right before it blocks, and the Control
    thread, which waited for the GIL to send the interrupt, does so at that moment.

    The C handler also writes to a descriptor (`signal.set_wakeup_fd`), and so do the handlers of
    `Interrupts` when they run. A signal with no handler behind it after a while is sent again. So
    is one whose exception was swallowed (`Interrupts.on_lost`).

    Threads: `watch` and what `Interrupts` calls main thread; the rest the thread of ``io_loop``.
    """

    PERIOD = 0.03
    """Seconds between two looks."""

    TRIES = 4
    """How often at most: C code that goes on may not expect a system call to be interrupted."""

    LOOKS = 100
    """How often it looks while SIGINT is suspended (as during a fork)."""

    def __init__(self, interrupts: Interrupts, io_loop: IOLoop) -> None:
        self._interrupts = interrupts
        self._io_loop = io_loop
        self._pending = 0
        """Number of the signal that no handler has followed yet; 0 if there is none."""
        self._signals = 0
        self._tries = self.TRIES

    def watch(self) -> None:
        """Begin. POSIX only: elsewhere nothing can be sent again."""
        if sys.platform == "win32" or not self._interrupts.enabled:
            return
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._interrupts.on_handled = partial(self._write, _HANDLED)
        self._interrupts.on_lost = partial(self._write, _SIGINT)
        os.register_at_fork(after_in_child=self._leave)
        self._io_loop.add_callback(
            self._io_loop.add_handler, self._reader, self._on_readable, IOLoop.READ
        )

    def _leave(self) -> None:
        """In a forked child: its signals are not the parent's."""
        signal.set_wakeup_fd(-1)
        self._interrupts.on_handled = self._interrupts.on_lost = lambda: None

    def _write(self, event: bytes) -> None:
        with suppress(BlockingIOError):  # so full that the reader has yet to see older ones
            self._writer.send(event)

    def _on_readable(self, fd: Any, events: int) -> None:
        events_in_order = self._reader.recv(4096)
        if events_in_order.rfind(_SIGINT) > events_in_order.rfind(_HANDLED):
            self._signals += 1
            self._pending = self._signals
            self._look_later(self._pending, self._interrupts.forgotten, self.LOOKS)
        elif _HANDLED in events_in_order:
            self._pending = 0
            self._tries = self.TRIES

    def _look_later(self, number: int, forgotten: int, looks: int) -> None:
        self._io_loop.call_later(self.PERIOD, self._look, number, forgotten, looks)

    def _look(self, number: int, forgotten: int, looks: int) -> None:
        if self._pending != number or self._interrupts.forgotten != forgotten:
            return
        if self._interrupts.armed and self._tries:
            self._tries -= 1
            interrupt_main_thread()
        elif self._interrupts.suspended and looks:
            self._look_later(number, forgotten, looks - 1)


_SIGINT, _HANDLED = bytes([signal.SIGINT]), b"\xff"


def interrupt_main_thread() -> None:
    """Deliver SIGINT to the main thread from any thread; it breaks blocking calls there.

    On Windows, where no signal can be sent to a thread, it is simulated and takes effect at the
    next bytecode.
    """
    if sys.platform == "win32":
        import _thread

        _thread.interrupt_main()
    else:
        ident = threading.main_thread().ident
        assert ident is not None
        signal.pthread_kill(ident, signal.SIGINT)
