"""How a kernel ends when nobody asked it to, told by its exit status.

A parent learns nothing else of a process that is gone, whether it is the front end, the shim or the
pool's daemon; so each limit has a status of its own. Where the kernel can't end itself, because
code that does not let go of the GIL has it, the system ends it by a signal that says the same:
SIGXCPU, and the last of the real-time signals.

Threads: `leave` any.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from enum import IntEnum
from typing import NoReturn

FLUSH_TIMEOUT = 10.0
"""Seconds the latest commits have to reach the disk, at most."""


class Exceeded(IntEnum):
    """Exit status of a kernel that has passed a limit."""

    MEMORY = 121
    CPU = 122
    PROCESSES = 123
    CELL = 124
    """As timeout(1) has it."""


CELL_SIGNAL = getattr(signal, "SIGRTMAX", None)
"""Ends a process by default, and is used for nothing else; None where there is none."""


def exceeded_by(code: int) -> Exceeded | None:
    """Return the limit that a return code, as of `subprocess`, stands for."""
    if CELL_SIGNAL is not None and code == -CELL_SIGNAL:
        return Exceeded.CELL
    if code == -getattr(signal, "SIGXCPU", 0) != 0:
        return Exceeded.CPU
    return Exceeded(code) if code in Exceeded.__members__.values() else None


def leave(status: int, flush: Callable[[], None], timeout: float = FLUSH_TIMEOUT) -> NoReturn:
    """End this process, whatever its main thread does.

    Args:
        status: of the process.
        flush: writes what is committed; may block.
        timeout: seconds for that.
    """
    try:
        flushing = threading.Thread(target=flush, name="Flush", daemon=True)
        flushing.start()
        flushing.join(timeout)
    finally:
        os._exit(status)
