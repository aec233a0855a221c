"""What blocks, off the event loop: on another thread, if there can be one.

Threads: any.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_IMPORTED_BY = os.getpid()


def is_fork() -> bool:
    """Tell whether this process was forked after its imports.

    A fork's loop may be its parent's, and count on threads that are not in the fork.
    """
    return os.getpid() != _IMPORTED_BY


async def aside(function: Callable[..., T], *arguments: object) -> T:
    """Run what blocks on another thread, and in a fork here."""
    if is_fork():
        return function(*arguments)
    return await asyncio.to_thread(function, *arguments)
