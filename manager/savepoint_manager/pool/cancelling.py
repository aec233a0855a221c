"""Ending tasks for good.

``asyncio.wait_for`` of Python before 3.12 forgets a cancellation that comes together with the
result it waits for, and a daemon that waits for such a task would keep its lock for ever.

Threads: that of the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

_AGAIN = 0.5
"""Seconds after which a task that goes on is cancelled once more."""


async def end_all(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks until all have ended."""
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=_AGAIN)
