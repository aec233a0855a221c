"""Keep ipykernel from work for the debugger when a kernel is created.

debugpy is a tenth of the time a kernel takes to start (41 of 400 ms here) and 7 MB of its memory.
ipykernel imports it with the kernel object; this kernel imports it with the first debug request.

ipykernel also lists the files of all modules then, which the debugger steps over. In a process made
by a fork, that writes the reference counts of all of them to memory it shared until then: 6 of a
standby's 22 MB. Its zygote makes the list before the fork (`module_files`).
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import Any, ClassVar

from ipykernel import ipkernel

_MODULE = "ipykernel.debugger"


class _NoModules:
    """Stands for ``sys``."""

    modules: ClassVar[dict[str, ModuleType]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(sys, name)


@cache
def module_files() -> list[str]:
    """List the files of the modules that are there when this is first asked."""
    files = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    return [file for file in files if file]


@contextmanager
def unlisted_modules() -> Iterator[None]:
    """Let ipykernel find, inside the block, that there are no modules."""
    ipkernel.sys = _NoModules()
    try:
        yield
    finally:
        ipkernel.sys = sys


@contextmanager
def postponed_debugger() -> Iterator[None]:
    """Let ipykernel find, inside the block, that there is no debugger."""
    if _MODULE in sys.modules:
        yield
        return
    absent = ModuleType(_MODULE)
    absent._is_debugpy_available = False  # type: ignore[attr-defined]
    sys.modules[_MODULE] = absent
    try:
        yield
    finally:
        del sys.modules[_MODULE]


def debugger_available() -> bool:
    """True if debugpy is installed."""
    return importlib.util.find_spec("debugpy") is not None
