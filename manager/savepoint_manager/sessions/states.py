"""The states of a session, and from which to which it may go.

It begins idle, as its kernel is ready when it gets it, and leaves every state but "closed".
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from ..exceptions import IllegalTransition


class SessionState(str, Enum):
    """What a session does."""

    STARTING = "starting"
    """It gets a fresh kernel."""
    IDLE = "idle"
    BUSY = "busy"
    INPUT_REQUIRED = "input_required"
    """Its cell waits for `Session.reply`."""
    DEAD = "dead"
    """Its kernel is gone; `Session.reset` gives it a fresh one."""
    CLOSED = "closed"
    """It was released, or its pool closed."""


_S = SessionState
TRANSITIONS: Mapping[SessionState, frozenset[SessionState]] = {
    _S.STARTING: frozenset({_S.IDLE, _S.DEAD, _S.CLOSED}),
    _S.IDLE: frozenset({_S.BUSY, _S.STARTING, _S.DEAD, _S.CLOSED}),
    _S.BUSY: frozenset({_S.IDLE, _S.INPUT_REQUIRED, _S.STARTING, _S.DEAD, _S.CLOSED}),
    _S.INPUT_REQUIRED: frozenset({_S.BUSY, _S.IDLE, _S.STARTING, _S.DEAD, _S.CLOSED}),
    _S.DEAD: frozenset({_S.STARTING, _S.CLOSED}),
    _S.CLOSED: frozenset(),
}


def check_transition(old: SessionState, new: SessionState) -> None:
    """Pass if a session may go from ``old`` to ``new``.

    Raises:
        IllegalTransition: it may not.
    """
    if new not in TRANSITIONS[old]:
        raise IllegalTransition(old.value, new.value)
