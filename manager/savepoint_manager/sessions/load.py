"""Waiting for a moment in which starting a kernel disturbs nobody.

Threads: one event loop.
"""

from __future__ import annotations

import asyncio

import psutil

BUSY = 70.0
"""Percent of all CPUs in use above which the machine counts as busy."""

PATIENCE = 10
"""How many times the delay a busy machine is waited for. One that always is needs kernels too."""


async def quiet_moment(delay: float) -> None:
    """Wait ``delay`` seconds, and again while the machine was busy in them."""
    psutil.cpu_percent()  # the next call tells how much it was since this one
    for _ in range(PATIENCE):
        await asyncio.sleep(delay)
        if psutil.cpu_percent() <= BUSY:
            return
