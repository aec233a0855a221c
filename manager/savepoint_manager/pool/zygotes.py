"""A zygote, as the daemon has it: its process, and how to have it fork.

Threads: the daemon's event loop.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import IO, Any

from savepoint_kernel.orders import Order

from .channel import Channel
from .fingerprint import Fingerprint
from .keeper import START_TIMEOUT, NoStandby, StandbyLost
from .keys import Key
from .reaper import Reaper

MODULE = "savepoint_kernel.zygote"


@dataclass(slots=True, eq=False)
class Standby:
    """A process that waits for an order, and ends when its channel is closed."""

    pid: int
    channel: Channel
    born: float = field(default_factory=time.monotonic)


@dataclass(slots=True, eq=False)
class Zygote:
    """A zygote that serves.

    Attributes:
        pid: its process.
        channel: to it; it ends when that is closed.
        fingerprint: of what it has imported.
        ended: its exit status.
    """

    pid: int
    channel: Channel
    fingerprint: Fingerprint
    ended: asyncio.Future[int]

    async def fork(self) -> Standby:
        """Have a standby made.

        Raises:
            StandbyLost: it ended meanwhile, or the zygote has.
            asyncio.TimeoutError: it is not ready in time.
        """
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        channel = Channel(ours)
        try:
            with its:
                try:
                    self.channel.send({"fork": True}, [its.fileno()])
                except OSError as error:  # it has ended, and we are about to hear of it
                    raise StandbyLost(f"the zygote can't be asked: {error}") from None
            message, _ = await asyncio.wait_for(channel.receive(), START_TIMEOUT)
            if "pid" not in message:
                raise StandbyLost("a standby ended while it was made")
        except BaseException:
            channel.close()
            raise
        return Standby(message["pid"], channel)


async def start_zygote(
    key: Key, order: Order, preload: Sequence[str], reaper: Reaper, log_file: IO[Any]
) -> Zygote:
    """Start a zygote and wait until it serves.

    Args:
        key: of its standbys.
        order: one of this key; it starts in its environment.
        preload: modules it imports.
        reaper: waits for its process.
        log_file: its stdout and stderr.

    Raises:
        NoStandby: a module can't be preloaded.
        StandbyLost: it ended, or what it has imported has changed meanwhile.
        asyncio.TimeoutError: it does not serve in time.
    """
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with its:
        process = subprocess.Popen(
            [order.executable, *order.options, "-m", MODULE, str(its.fileno())],
            cwd=key.cwd,
            env=dict(order.env),
            stdin=subprocess.DEVNULL,
            stdout=log_file,
            stderr=log_file,
            pass_fds=[its.fileno()],
            start_new_session=True,
        )
    process.returncode = 0  # it is the reaper that waits for it, not Popen
    ended = reaper.status(process.pid)
    channel = Channel(ours)
    try:
        channel.send({"preload": list(preload), "arguments": list(key.arguments)})
        message, _ = await asyncio.wait_for(channel.receive(), START_TIMEOUT)
    except BaseException:
        channel.close()
        if not ended.done():
            os.kill(process.pid, signal.SIGKILL)
        raise
    try:
        if "refused" in message:
            raise NoStandby(message["refused"])
        if "ready" not in message:
            raise StandbyLost("the zygote ended while it was made")
        fingerprint = Fingerprint(**message["watch"])
        changed = fingerprint.changed_since(message["began"])
        if changed:  # an installation is under way, and what was imported may be of before
            raise StandbyLost(f"{changed} changed while the zygote started")
    except NoStandby:
        channel.close()
        raise
    return Zygote(process.pid, channel, fingerprint, ended)
