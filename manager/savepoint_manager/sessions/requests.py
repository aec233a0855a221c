"""One request to a kernel: what comes back for it, in order, until its reply and its idle status.

A request is over when both are there; on which channel the kernel is faster is anybody's guess.
Whether somebody reads what it publishes does not matter for that: nobody may, if a caller left its
loop early.

What is published waits here for its reader. `room` holds the reader of the channel back when too
much waits, and so the kernel, and so the cell that floods. It no longer does once the reply is
there: the cell is over then and what is left is bounded by the buffers on the way.

Threads: one event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Any

from .exits import Exit

Message = dict[str, Any]

LIMIT = 1000
"""Messages that may wait before the kernel is held back."""

IDLE_PATIENCE = 5.0
"""Seconds without a message after which the idle status of an answered request counts as lost.
zmq drops what a stock kernel publishes to a client that is too slow."""

_log = logging.getLogger(__name__)


class Request:
    """A request that was sent.

    Args:
        message: the request.
        keep: keep what is published for it, for `next`.
        lossless: the kernel loses nothing it publishes. It is held back when too much is kept, and
            its idle status comes, however long that takes on a busy machine.
    """

    def __init__(self, message: Message, *, keep: bool, lossless: bool) -> None:
        self.message = message
        self.reply: Message | None = None
        self.exit: Exit | None = None
        """How the kernel ended, if that was before the request did."""
        self.replied = asyncio.Event()
        """Set when the reply is there, or never will be."""
        self.finished = asyncio.Event()
        self.on_prompt: Callable[[Message], None] = lambda prompt: None
        self.on_finished: Callable[[], None] = lambda: None
        self.on_end: Callable[[Request], None] = lambda request: None
        self._keep = keep
        self._lossless = lossless
        self._idle = False
        self._received = 0
        self._kept: deque[Message] = deque()
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def id(self) -> str:
        """What replies and output name as their parent."""
        msg_id: str = self.message["header"]["msg_id"]
        return msg_id

    # -- by the channels' readers

    def publish(self, message: Message) -> None:
        """Take a message of iopub or stdin."""
        self._received += 1
        if self._keep:
            self._kept.append(message)
            self._arrived.set()
            if self._lossless and len(self._kept) >= LIMIT and not self.replied.is_set():
                self._room.clear()

    async def room(self) -> None:
        """Wait until more may be published."""
        await self._room.wait()

    def ask(self, prompt: Message) -> None:
        """Take an input_request; one that comes after the end of its cell is stale."""
        if not self.replied.is_set():
            self.publish(prompt)
            self.on_prompt(prompt)

    def answer(self, reply: Message) -> None:
        """Take the reply."""
        self.reply = reply
        self.publish(reply)
        self.replied.set()
        self._room.set()
        if self._idle:
            self._finish()
        elif not self._lossless:
            self._wait_for_idle()

    def idle(self) -> None:
        """Take the idle status."""
        self._idle = True
        if self.replied.is_set():
            self._finish()

    def fail(self, end: Exit) -> None:
        """Take note that there will be no reply."""
        if not self.finished.is_set():
            self.exit = end
            self.replied.set()
            self._finish()

    # -- by whoever sent it

    async def next(self) -> Message | None:
        """Return what was published next; the reply is among it. None after the last."""
        while not self._kept:
            if self.finished.is_set():
                return None
            self._arrived.clear()
            await self._arrived.wait()
        message = self._kept.popleft()
        if len(self._kept) < LIMIT:
            self._room.set()
        return message

    def result(self) -> Message:
        """Return the reply of an answered request.

        Raises:
            KernelDied: the kernel ended instead.
        """
        if self.reply is None:
            assert self.exit is not None
            raise self.exit.error()
        return self.reply

    async def end(self) -> Message:
        """Wait until the request is over, and return its reply; what was published is not wanted.

        Raises:
            KernelDied: the kernel ended.
        """
        self.discard()
        await self.finished.wait()
        return self.result()

    def discard(self) -> None:
        """Keep nothing from now on."""
        self._keep = False
        self._kept.clear()
        self._room.set()

    def _wait_for_idle(self) -> None:
        received = self._received

        def give_up() -> None:
            if self._received > received:
                self._wait_for_idle()
            else:
                _log.warning("The kernel sent a reply, but no idle status, for %s", self.id)
                self._finish()

        self._timer = asyncio.get_running_loop().call_later(IDLE_PATIENCE, give_up)

    def withdraw(self) -> None:
        """Wait for nothing more."""
        if self._timer is not None:
            self._timer.cancel()
        self.on_end(self)

    def _finish(self) -> None:
        self.withdraw()
        if not self.finished.is_set():
            self.finished.set()
            self._arrived.set()
            self._room.set()
            self.on_finished()
