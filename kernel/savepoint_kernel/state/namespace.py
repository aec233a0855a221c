"""Which names can code touch? The names it uses itself; what they lead to is `tracker`'s to follow.

Code is analysed after it has run, as the shell ran it: nested cells, magics and the like included.
Where analysis can't follow, it says so (`Uses.defeat`) and every name is suspect. The prototype of
this missed nothing but threads and objects that libraries keep (see docs/state.md for the rest).

An attribute is no use of a global; a name loaded is, whether or not it is also bound.
"""

from __future__ import annotations

import builtins
import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from .code_names import code_names
from .magic_effects import MagicCall, effect

_BUILTINS_OF_ANY_NAME: tuple[Any, ...] = (
    builtins.__import__,
    builtins.breakpoint,
    builtins.eval,
    builtins.exec,
    builtins.globals,
    builtins.locals,
    builtins.vars,
)
"""By identity, so that another name for one of them is no way around."""

_MODULES_OF_ANY_NAME = frozenset(
    """
    __main__ _ctypes _pickle bdb builtins cloudpickle code codeop ctypes dill doctest gc importlib
    inspect joblib marshal pdb pickle runpy timeit trace unittest
    """.split()
)
"""Top-level modules that give frames or globals, run code, or load what refers to globals."""

_SHELL_MODULES = frozenset({"IPython", "IPython.core.getipython", "IPython.core.interactiveshell"})
"""Not all of IPython: every notebook imports its display functions."""

_OF_ANY_NAME = frozenset(map(id, _BUILTINS_OF_ANY_NAME))


@dataclass(frozen=True, slots=True)
class Uses:
    """What code may touch.

    Attributes:
        names: it may read, bind or delete.
        defeat: why any other name may have been touched too; None if not.
        verify: look at all other names all the same.
        unsuspected: look at these all the same.
    """

    names: frozenset[str]
    defeat: str | None = None
    verify: bool = False
    unsuspected: frozenset[str] = frozenset()


def unlimited(value: Any) -> str | None:
    """Return why code that uses ``value`` may touch any name, if it may."""
    if id(value) in _OF_ANY_NAME:
        return f"{value.__name__}() can reach any name"
    kind = type(value)  # not isinstance(): __class__ may be users' code
    module: object
    if issubclass(kind, types.ModuleType):
        module = vars(value).get("__name__")
    elif issubclass(kind, (types.FunctionType, types.BuiltinFunctionType, type)):
        module = (
            type.__getattribute__(value, "__module__")
            if issubclass(kind, type)
            else value.__module__
        )
        if value is object or module in {None, "builtins", "__main__"}:
            return None
    else:
        return None
    return _unlimited_module(module)


def _unlimited_module(module: object) -> str | None:
    if not isinstance(module, str):
        return None
    if module in _SHELL_MODULES or module.partition(".")[0] in _MODULES_OF_ANY_NAME:
        return f"{module} can reach any name"
    return None


def uses(
    codes: Iterable[types.CodeType],
    defeat_of: Callable[[str], str | None],
    compile_cell: Callable[[str], types.CodeType | None],
) -> Uses:
    """Analyse code objects.

    Args:
        codes: cells or functions.
        defeat_of: tells why a name's value, builtins included, is `unlimited`.
        compile_cell: compiles a text as a cell, for magics that run one; None if it can't.
    """
    names: set[str] = set()
    waiting = list(codes)
    while waiting:
        known = code_names(waiting.pop())
        names |= known.loaded | known.stored | known.deleted
        names |= known.stored_globally | known.deleted_globally
        defeat = known.defeat
        for module in known.imports:
            defeat = defeat or _unlimited_module(module)
        for name in known.loaded:
            defeat = defeat or defeat_of(name)
        for call in known.magics:
            defeat = defeat or _follow(call, names, waiting, compile_cell)
        if defeat is not None:
            return Uses(frozenset(names), defeat)
    return Uses(frozenset(names))


def _follow(
    call: MagicCall,
    names: set[str],
    waiting: list[types.CodeType],
    compile_cell: Callable[[str], types.CodeType | None],
) -> str | None:
    """Add what a magic touches; return why it may touch anything, if it may."""
    known = effect(call)
    if known is None:
        return f"{call} may do anything"
    names |= known.binds | known.words
    for text in known.runs:
        code = compile_cell(text)
        if code is None:
            return f"{call} may do anything"
        waiting.append(code)
    return None
