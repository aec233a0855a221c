"""Completion beside a running cell, and quick from the first one.

Threads: both run on the Introspection thread; `WarmUp.cell_ended` is called on the main thread.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from IPython.core.completer import (
    ProvisionalCompleterWarning,
    provisionalcompleter,
    rectify_completions,
)
from tornado.ioloop import IOLoop

from .activity import COMPLETIONS
from .machine import is_busy

_COMPLETION_FIELDS = ("start", "end", "text", "type", "signature")


def complete(completer: Any, code: str, cursor_pos: int) -> dict[str, Any]:
    """Return the content of a complete_reply.

    IPython's own context manager for this is warnings.catch_warnings, as is jedi's, which is state
    of the process: leaving it would undo what the running cell does to the filters meanwhile. The
    kernel ignores the warning in question from its start; the context manager is entered only if
    the user made warnings errors.

    Args:
        completer: IPython's completer.
        code: the cell so far.
        cursor_pos: offset in code points.
    """
    _leave_filters_alone()
    with COMPLETIONS:
        try:
            found = list(rectify_completions(code, completer.completions(code, cursor_pos)))
        except ProvisionalCompleterWarning:
            with provisionalcompleter():
                found = list(rectify_completions(code, completer.completions(code, cursor_pos)))
    typed = [{name: getattr(c, name) for name in _COMPLETION_FIELDS} for c in found]
    return {
        "status": "ok",
        "matches": [c.text for c in found],
        "cursor_start": found[0].start if found else cursor_pos,
        "cursor_end": found[0].end if found else cursor_pos,
        "metadata": {"_jupyter_types_experimental": typed},
    }


class _Warnings:
    """What jedi sees of `warnings`: as if nothing was ever warned of.

    A warning meanwhile is shown as output of the completion, which no front end displays.
    """

    def __getattr__(self, name: str) -> Any:
        return getattr(warnings, name)

    @staticmethod
    def catch_warnings(*, record: bool = False) -> AbstractContextManager[Any]:
        return nullcontext([] if record else None)

    @staticmethod
    def simplefilter(action: str) -> None:
        pass


_WARNINGS = _Warnings()


def _leave_filters_alone() -> None:
    """Keep jedi from setting the process's filters, and from setting them back, beside a cell."""
    for name in ("jedi.inference.docstrings", "jedi.inference.compiled.access"):
        module: Any = sys.modules.get(name)
        if module is not None:
            module.warnings = _WARNINGS


class WarmUp:
    """Loads the completer once kernel and machine idle: its first use takes half a second.

    Of a hundred kernels that would do so at once, each waits for its turn.

    Args:
        loop: of the Introspection thread.
        completer: gives IPython's completer.
        busy: tells whether a cell runs.
        cells: gives the number of cells so far.
        delay: seconds without a cell before it happens.
    """

    def __init__(
        self,
        loop: IOLoop,
        completer: Callable[[], Any],
        busy: Callable[[], bool],
        cells: Callable[[], int],
        delay: float,
    ) -> None:
        self._loop = loop
        self._completer = completer
        self._busy = busy
        self._cells = cells
        self._delay = delay
        self._scheduled = False

    def cell_ended(self) -> None:
        """Wait for idleness from now on. Only the first call does anything."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.add_callback(self._wait, self._cells())

    def _wait(self, cells: int) -> None:
        self._loop.call_later(self._delay, self._check, cells)

    def _check(self, cells: int) -> None:
        if self._busy() or self._cells() != cells or is_busy():
            self._wait(self._cells())
        else:
            complete(self._completer(), "import os; os.pa", 16)
