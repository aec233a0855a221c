"""Messages of `savepoint_kernel.orders` on an event loop.

Threads: that of the loop.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

from savepoint_kernel import orders
from savepoint_kernel.orders import Message


class Channel:
    """One end of a SOCK_SEQPACKET connection. One task receives at a time."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._loop = asyncio.get_running_loop()

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Send a message; the peer reads what it asked for, so there is room.

        Raises:
            OrderRefused: it is too large.
            OSError: the peer is gone, or does not read.
        """
        orders.send(self._sock, message, descriptors)

    async def receive(self) -> tuple[Message, list[int]]:
        """Wait for a message; an empty one means that the peer is gone.

        Raises:
            OrderRefused: it is none.
        """
        while True:
            try:
                return orders.receive(self._sock)
            except BlockingIOError:
                await self._readable()
            except ConnectionResetError:
                return {}, []

    async def _readable(self) -> None:
        ready = self._loop.create_future()
        self._loop.add_reader(self._sock, _set, ready)
        try:
            await ready
        finally:
            self._loop.remove_reader(self._sock)

    def peer(self) -> tuple[int, int]:
        """Return process and user at the other end, as the system knows them."""
        return orders.peer_of(self._sock)

    def close(self) -> None:
        """Close it."""
        self._sock.close()


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
