"""Live references for users: ``savepoint.refs``.

What can't be pickled is no part of a commit. Put here, it is held until it is removed, whatever is
undone; and with a function that makes it again, a restore in another process calls that.

Threads: the main thread, in a cell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .history.commands import Commands
    from .state.liverefs import Reference


class References:
    """The live references of this kernel.

    Args:
        commands: finds what does the work.
    """

    def __init__(self, commands: Callable[[], Commands]) -> None:
        self._commands = commands

    def put(
        self, obj: Any, name: str | None = None, recreate: Callable[[], Any] | None = None
    ) -> str:
        """Hold an object until it is removed; say how to make it again.

        A restore that finds the object gone calls ``recreate``, once, and binds all names that
        stood for the object to the result. It does so last, when the other names and the process
        are as they were. If ``recreate`` raises, or returns None, the names are bound to a
        placeholder that says so.

        Args:
            obj: the object. One that was put before gets the new name and function.
            name: what to call it; another object of this name is removed.
            recreate: makes the object again; called without arguments. A commit saves it as it is
                now, by its source; names of the session that it uses are looked up when it is
                called.

        Returns:
            A key, for `get` and `remove`.

        Raises:
            ReferencesFull: there are ``Savepoints.references`` (10,000) of them already.
            NotPicklable: ``recreate`` can't be saved.
            TypeError: it can't be called without arguments, or is async; the name is no string.
            DroppedReferenceError: ``obj`` is a placeholder.
        """
        return self._commands().put(obj, name or "", recreate)

    def get(self, key: str) -> Any:
        """Return an object by its key or name.

        Raises:
            DroppedReferenceError: it is not here, or could not be made again.
        """
        return self._commands().references.object_of(key)

    def remove(self, key: str) -> None:
        """Hold an object no longer, by its key or name. Commits made so far can make it again.

        Raises:
            DroppedReferenceError: it is not here.
        """
        self._commands().remove(key)

    def list(self) -> Sequence[Reference]:
        """Return what is held, oldest first."""
        return self._commands().references.references()
