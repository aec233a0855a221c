"""The C pickler recurses as deep as Python may, on a stack that is not Python's.

A user who has set a recursion limit of 100 000 would get a segmentation fault instead of an error.

Threads: any; the limit is the process's.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

DEPTH = 5_000
"""Python's default is 1000; a stack of 8 MiB holds ten times as many frames of the pickler."""


@contextmanager
def bounded_recursion() -> Iterator[None]:
    """Keep the recursion limit at `DEPTH` at most."""
    limit = sys.getrecursionlimit()
    if limit <= DEPTH:
        yield
        return
    with suppress(RecursionError):  # already deeper than that
        sys.setrecursionlimit(DEPTH)
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)
