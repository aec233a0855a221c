"""Sessions for Python programs: a pool of kernels, cells as streams of typed events.

Floors, from the top: `blocking`, `pool`, `spares`, `session`, `preparation`, `kernel`; the others
are values and what they are made of.
"""

from __future__ import annotations

from .blocking import BlockingSession, BlockingSessionPool
from .config import PoolConfig
from .events import (
    ClearOutput,
    Display,
    Done,
    Error,
    Event,
    InputRequired,
    Other,
    Output,
    Result,
)
from .pool import PoolStatus, SessionPool
from .session import CancelOutcome, Checkpoint, Restored, Session
from .states import SessionState

__all__ = [
    "BlockingSession",
    "BlockingSessionPool",
    "CancelOutcome",
    "Checkpoint",
    "ClearOutput",
    "Display",
    "Done",
    "Error",
    "Event",
    "InputRequired",
    "Other",
    "Output",
    "PoolConfig",
    "PoolStatus",
    "Restored",
    "Result",
    "Session",
    "SessionPool",
    "SessionState",
]
