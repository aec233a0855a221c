"""Completions under way: what they do to the process is not the user's doing.

jedi sets the recursion limit, stops the garbage collector for moments, adds to `sys.path`; its
import adds warning filters and loggers. All of it is state of the process, which commits save.

Threads: any; ``_changed`` guards the counts.
"""

from __future__ import annotations

import threading


class Activity:
    """Counts what is under way; a context manager around it.

    Attributes:
        begun: how many there have been.
        active: how many there are.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.begun = 0
        self.active = 0

    def __enter__(self) -> None:
        with self._changed:
            self.begun += 1
            self.active += 1

    def __exit__(self, *failure: object) -> None:
        with self._changed:
            self.active -= 1
            self._changed.notify_all()

    def wait(self, seconds: float) -> None:
        """Wait until nothing is under way, for so long at most."""
        with self._changed:
            self._changed.wait_for(lambda: not self.active, seconds)


COMPLETIONS = Activity()
