"""A fair share of the GIL for service threads while a cell computes.

A thread that wants the GIL waits one switch interval (5 ms) before the running thread must let go.
A completion gives the GIL up dozens of times, for a file it looks at or a message it sends, and
waits that long every time. While a request is served beside a running cell the interval is shorter.

Threads: any service thread; ``_lock`` guards the count of those in a hurry.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

INTERVAL = 0.0001
"""Seconds. Measured for a completion beside ``while True: pass``, see docs/benchmarks.md."""

_lock = threading.Lock()
_hurrying = 0
_usual = 0.005


@contextmanager
def hurry(cell_running: bool) -> Iterator[None]:
    """Shorten the switch interval inside the block if a cell runs beside it."""
    global _hurrying, _usual
    if not cell_running:
        yield
        return
    with _lock:
        _hurrying += 1
        if _hurrying == 1:
            _usual = sys.getswitchinterval()
            sys.setswitchinterval(INTERVAL)
    try:
        yield
    finally:
        with _lock:
            _hurrying -= 1
            # What user code has set meanwhile stays.
            if _hurrying == 0 and abs(sys.getswitchinterval() - INTERVAL) < 1e-9:
                sys.setswitchinterval(_usual)
