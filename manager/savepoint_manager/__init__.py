"""What runs beside the front end: sessions for programs, headless runs, ``jupyter savepoint``.

The names below are imported when they are asked for: ``jupyter savepoint`` should not load what a
pool needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .sessions import (
        BlockingSession,
        BlockingSessionPool,
        PoolConfig,
        Session,
        SessionPool,
    )

__all__ = ["BlockingSession", "BlockingSessionPool", "PoolConfig", "Session", "SessionPool"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.sessions"), name)
