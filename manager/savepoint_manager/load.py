"""Waiting for a moment in which starting a kernel disturbs nobody.

Threads: one event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import psutil

BUSY = 70.0
"""Percent of all CPUs in use above which the machine counts as busy."""


async def quiet_moment(
    interval: float,
    patience: float,
    *,
    busy: float = BUSY,
    hurried: Callable[[], bool] = lambda: False,
) -> None:
    """Wait until the machine was not busy for a while.

    Args:
        interval: seconds that are looked at.
        patience: seconds after which it doesn't matter. A machine that is always busy needs kernels
            too.
        busy: see `BUSY`.
        hurried: tells that there is no time to wait.
    """
    until = time.monotonic() + patience
    psutil.cpu_percent()  # the next call tells how much it was since this one
    while time.monotonic() < until and not hurried():
        await asyncio.sleep(interval)
        if psutil.cpu_percent() <= busy:
            return
