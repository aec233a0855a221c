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


async def aside(function: Callable[..., T], *arguments: object) -> T:
    """Run what blocks on another thread, and in a fork here.

    A fork's loop may be its parent's, and count on threads that are not in the fork.
    """
    if os.getpid() == _IMPORTED_BY:
        return await asyncio.to_thread(function, *arguments)
    return function(*arguments)
