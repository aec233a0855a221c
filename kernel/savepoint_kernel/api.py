"""What a notebook may import: ``from savepoint_kernel import api as savepoint``."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

from IPython.core.getipython import get_ipython

from .display import TimelineTable
from .exceptions import (
    CheckpointNotFound,
    CorruptStore,
    DroppedReferenceError,
    ExecutionTimeout,
    NotPicklable,
    ReferencesFull,
    SourceNotAvailable,
    TimelineNotAvailable,
    TransactionConflict,
    UnrestorableState,
    UntrustedStore,
)
from .history.checkout import Restored
from .history.commands import Commands
from .history.commit import Commit
from .refs import References
from .serialize.sources import REGISTRY, CellRecord, Source
from .state.liverefs import Reference
from .state.process import Participant

__all__ = [
    "CellRecord",
    "CheckpointNotFound",
    "Commit",
    "CorruptStore",
    "DroppedReferenceError",
    "ExecutionTimeout",
    "NotPicklable",
    "Participant",
    "Reference",
    "ReferencesFull",
    "Restored",
    "Source",
    "SourceNotAvailable",
    "TimelineNotAvailable",
    "TransactionConflict",
    "UnrestorableState",
    "UntrustedStore",
    "checkpoint",
    "commits",
    "redo",
    "refs",
    "register",
    "restore",
    "source",
    "timeline",
    "transaction",
    "undo",
]


def source(obj: Any) -> Source:
    """Return the source of a function, method or class, and the cell that made it.

    Args:
        obj: a function (async, decorated, nested, lambda as far as Python allows), method or class.

    Returns:
        Text, cell (digest, execution count, cell id) and first line.

    Raises:
        SourceNotAvailable: ``obj`` was made by exec(), by C code, or is no such thing.
    """
    return REGISTRY.source(obj)


def _kernel() -> Any:
    kernel = getattr(get_ipython(), "kernel", None)
    if not hasattr(kernel, "savepoints"):
        raise TimelineNotAvailable("this is no cell of a Savepoint kernel")
    return kernel


def _commands() -> Commands:
    commands: Commands = _kernel().commands
    return commands


refs = References(_commands)
"""Objects that can't be saved: held, and made again where they are gone."""


def commits() -> list[Commit]:
    """Return all commits of the session, oldest first."""
    return list(_commands().log())


def timeline(count: int = 20) -> TimelineTable:
    """Return the latest commits that changed something as a table that displays itself.

    Args:
        count: how many; 0 for all.

    Raises:
        ValueError: it is no such number.
    """
    commands = _commands()
    head: Commit = _kernel().savepoints.timeline.head
    return TimelineTable(commands.changes(count), head.number, commands.names())


def undo(count: int = 1) -> Restored:
    """Go back to before the latest ``count`` cells that changed something.

    Raises:
        CheckpointNotFound: there are not as many.
        ValueError: ``count`` is less than 1.
    """
    return _commands().undo(count)


def redo() -> Restored:
    """Go to where the latest undo came from.

    Raises:
        CheckpointNotFound: there was none since the last commit.
    """
    return _commands().redo()


def checkpoint(
    name: str | None = None, message: str = "", policy: str = "pickle_or_error"
) -> Commit:
    """Commit now, after a look at every name.

    Args:
        name: what to call the commit.
        message: what to say about it.
        policy: what to do if a value can't be saved, nor made again (`refs`): "warn_drop" reports
            it in ``Commit.dropped``; "pickle_or_error" raises, and the commit is made without a
            name; "hard_error" raises, and nothing is committed.

    Raises:
        OSError: it is to be on disk now (``durability`` sync) and is not; it is in memory.
        UnrestorableState: a value can't be saved.
        ValueError: that can't be a name, or a policy.
    """
    commit = _commands().checkpoint(name, message, policy)
    _kernel().savepoints.store.settle()
    return commit


def restore(commit: Commit | str | int | None = None, names: str | Iterable[str] = ()) -> Restored:
    """Go to a commit, or take names from it.

    Args:
        commit: it, its name or number; None for where the process before this one left off.
        names: take only these, or this one; names that shared something share it again.

    Raises:
        CheckpointNotFound: there is no such commit or name.
        UnrestorableState: a value can't be loaded; nothing was changed.
    """
    if isinstance(commit, Commit):
        commit = commit.number
    chosen = [names] if isinstance(names, str) else list(names)
    return _commands().restore(None if commit is None else str(commit), chosen)


def transaction() -> AbstractContextManager[None]:
    """Return a context manager that undoes what its block did if it raises.

    Names, values, sharing and process state are as at its start then; the exception goes on.
    Local variables of a function are not covered.
    """
    return _commands().block()


def register(participant: Participant) -> None:
    """Let a participant take part in commits and rollbacks from now on.

    It takes the place of one of its name that was registered before, by the same cell for example.

    Raises:
        TypeError: it lacks ``name``, ``capture`` or ``restore``.
        ValueError: the kernel has one of its name.
    """
    _kernel().savepoints.participants.register(participant)
