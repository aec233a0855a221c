"""State in modules: data of modules that are the user's, and what cells assign to any module.

Each such attribute is a name of the timeline, ``module.attribute``, beside those of the namespace.
So it is compared, saved, linked and restored as they are: after ``from shop import ITEMS`` the two
names are one co-variable, and an undo gives both the same list. The alternative, one token of all
modules' bindings, could restore neither contents nor what they share with names, and one value that
can't be pickled lost all others.

    a module of the user's    its containers, arrays, frames, and instances of classes of such
                              modules; whatever a name of the namespace stands for too; whatever is
                              bound otherwise than after the statement that imported it
    any other module          attributes that a statement of a cell assigns or deletes by name,
                              while they are bound otherwise than before it

A module is the user's if its file is below the directory in which the kernel was started, the
current one, or one that the session has put on `sys.path`, and is neither the standard library's
nor installed; or if it has no file, and a name stands for it.

Left out: what can't be pickled when the module is first seen (a lock, a connection); attributes of
a module's classes; constants that are bound as they were, so that an edited source file counts;
`sys`, `builtins` and ``__main__``, where the interpreter and the kernel assign too.

It runs at every cell. With no such module a read takes 0.8 µs and a note of a statement's code 3 µs
(CPython 3.11, 781 modules imported, of which a first read takes 2 ms); one module of 43 attributes
adds 10 µs, besides the comparing of its data.

Threads: the main thread, but `note_code`, which any may call.
"""

from __future__ import annotations

import array
import collections
import enum
import importlib
import logging
import os
import sys
import sysconfig
import threading
import types
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from traceback import format_exception_only
from typing import Any, TypeGuard

from ..serialize.pickler import dumps
from .assignments import assigned_attributes
from .graph import footprint, is_atom
from .liverefs import DroppedReference
from .view import is_attribute

_NOT_STATE = frozenset(
    {"__builtins__", "__cached__", "__file__", "__loader__", "__package__", "__path__", "__spec__"}
    | {"__warningregistry__"}
)
"""Attributes that the import system and `warnings` keep on modules for themselves."""

_NOT_WATCHED = frozenset({"__main__", "__mp_main__", "builtins", "sys"})

_CONTAINERS = frozenset(
    {
        array.array,
        bytearray,
        collections.Counter,
        collections.OrderedDict,
        collections.defaultdict,
        collections.deque,
        dict,
        list,
        set,
        types.SimpleNamespace,
    }
)

_DATA = {"numpy": ("ndarray",), "pandas": ("DataFrame", "Series")}
"""Data of libraries. Their other objects refer to what can't be seen from here: leave them."""

_CODE = (type, types.FunctionType, types.BuiltinFunctionType, types.ModuleType, logging.Logger)

_INSTALLED = frozenset({"site-packages", "dist-packages"})

_ABSENT = object()

_attributes: Callable[[types.ModuleType], dict[str, Any]]
_attributes = vars(types.ModuleType)["__dict__"].__get__
"""Not `vars`: a module that loads itself when it is used would do so."""


class Missing(enum.Enum):
    """What stands for an attribute that was deleted. Its name is in stored pickles."""

    DELETED = "deleted"


class _Module:
    """One module of the user's.

    Attributes:
        name: its name.
        module: the module.
        spec: what it was loaded by; a reload brings another.
        judged: True if it is known what of it is data.
        data: names of the attributes that are always state.
        first: what the others were bound to.
        loose: those of them that are state while a name of the namespace stands for them too.
    """

    def __init__(self, name: str, module: types.ModuleType) -> None:
        self.name = name
        self.module = module
        self.spec = _attributes(module).get("__spec__")
        self.judged = False
        self.data: set[str] = set()
        self.first = {
            name: value
            for name, value in _attributes(module).copy().items()
            if name not in _NOT_STATE
        }
        self.loose: dict[str, int] = {}

    def read(self, named: Callable[[], frozenset[int]]) -> Iterator[tuple[str, Any]]:
        """Yield the attributes that are state.

        Args:
            named: gives the ids of what the names of the namespace stand for.
        """
        now = _attributes(self.module).copy()
        for name, value in now.items():
            if name not in self.data:
                if self.first.get(name, _ABSENT) is value:
                    if name not in self.loose or id(value) not in named():
                        continue
                elif not self._may_be_set(name, value):
                    continue
            yield name, value
        for name in (self.first.keys() | self.data) - now.keys():
            yield name, Missing.DELETED

    def _may_be_set(self, name: Any, value: Any) -> bool:
        if name in _NOT_STATE or not isinstance(name, str) or not name.isidentifier():
            return False
        # An import that stays: without the attribute, `import a.b` would succeed and `a.b` fail.
        return value is None or value is not sys.modules.get(f"{self.name}.{name}")

    def remove(self, name: str) -> None:
        """Undo what was done to an attribute that was no state."""
        if name in self.data:
            return  # it was made by the import, which stays
        if name in self.first:
            _attributes(self.module)[name] = self.first[name]
        else:
            _attributes(self.module).pop(name, None)


class ModuleAttributes:
    """The attributes of modules that are state.

    Args:
        namespace: the live one.
        guard: lets an interrupt raise while users' code runs, which may never end.
    """

    def __init__(
        self,
        namespace: dict[str, Any],
        guard: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._namespace = namespace
        self._guard = guard
        self._thread = threading.get_ident()
        self._start = _current_directory()
        self._path = frozenset(sys.path)
        self._library = tuple(
            os.path.join(sysconfig.get_path(which), "") for which in ("stdlib", "platstdlib")
        )
        self._signature: tuple[int, str, int] | None = None
        self._judged: dict[str, int] = {}
        self._modules: dict[str, _Module] = {}
        self._assigned: dict[tuple[str, str], Any] = {}
        self.names: frozenset[str] = frozenset()
        """The names read last."""

    # -- finding

    def note_code(self, code: types.CodeType) -> None:
        """Take note of what attributes of modules are bound to, before code that may assign them.

        Args:
            code: about to run; code nested in it may run too.
        """
        if threading.get_ident() == self._thread:
            self._find()  # what the statement before has imported, as the import left it
        self._note(code)

    def _note(self, code: types.CodeType) -> None:
        assigned = assigned_attributes(code)
        if assigned:
            for module in self._modules_in(code.co_names):
                attributes = _attributes(module)
                for name in assigned - _NOT_STATE:
                    value = attributes.get(name, _ABSENT)
                    self._assigned.setdefault((attributes["__name__"], name), value)
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                self._note(constant)

    def _modules_in(self, names: Iterable[str]) -> list[types.ModuleType]:
        """Return the modules that code with these names can have in hand."""
        found: list[types.ModuleType] = []
        for name in names:
            for value in (self._namespace.get(name), sys.modules.get(name)):
                if _is_module(value) and value not in found:
                    found.append(value)
        for module in found:  # grows
            for name in names:
                value = _attributes(module).get(name)
                if _is_module(value) and value not in found:
                    found.append(value)
        return [
            module
            for module in found
            if type(own := _attributes(module).get("__name__")) is str
            and own not in _NOT_WATCHED
            and sys.modules.get(own) is module
        ]

    def _find(self) -> None:
        """Look through modules that have been imported since the last time."""
        modules = sys.modules
        last = next(reversed(modules), "")
        # Imported anew means imported last; one that is merely exchanged is found a little later.
        signature = len(modules), last, id(modules.get(last))
        if signature == self._signature:
            return
        self._signature = signature
        judged, self._judged = self._judged, {n: id(module) for n, module in modules.copy().items()}
        directories = tuple(self._directories())
        for name in self._modules.keys() - self._judged.keys():
            del self._modules[name]
        for name in [name for name, key in self._judged.items() if judged.get(name) != key]:
            self._modules.pop(name, None)
            module = modules.get(name)
            if _is_module(module) and self._is_users(name, module, directories):
                self._modules[name] = _Module(name, module)

    def _directories(self) -> Iterator[str]:
        own = (path for path in sys.path if type(path) is str and path not in self._path)
        for path in {self._start, _current_directory(), *own}:
            if os.path.dirname(path) != path:  # neither the root, nor "", the current one
                yield os.path.join(os.path.abspath(path), "")

    def _is_users(self, name: str, module: types.ModuleType, directories: tuple[str, ...]) -> bool:
        if name in _NOT_WATCHED or name.partition(".")[0] == __name__.partition(".")[0]:
            return False
        if _attributes(module).get("__name__") != name:
            return False  # a second name for another one
        file = _attributes(module).get("__file__")
        if file is None:
            made = _attributes(module).get("__spec__", _ABSENT) is None
            return made and any(value is module for value in [*self._namespace.values()])
        if not isinstance(file, str) or not file.startswith(directories):
            return False
        return not file.startswith(self._library) and _INSTALLED.isdisjoint(file.split(os.sep))

    def _judge(self, known: _Module) -> None:
        """Tell data from what else is bound in a module."""
        for name, value in known.first.copy().items():
            if name.startswith("__") or is_atom(value) or issubclass(type(value), _CODE):
                continue
            if self._is_data(value):
                known.data.add(name)
                del known.first[name]
            else:
                known.loose[name] = id(value)
        known.judged = True

    def _is_data(self, value: Any) -> bool:
        kind = type(value)
        if kind is tuple:
            if not footprint(value, self._namespace).objects:
                return False
        elif kind not in _CONTAINERS and not self._is_known(kind):
            return False
        try:
            with self._guard():
                dumps(value, self._namespace)
        except KeyboardInterrupt:
            raise
        except BaseException:  # a __reduce__ may raise SystemExit
            return False
        return True

    def _is_known(self, kind: type) -> bool:
        for module, names in _DATA.items():
            imported = sys.modules.get(module)
            if any(kind is getattr(imported, name, None) for name in names):
                return True
        return kind.__module__ in self._modules and not issubclass(kind, enum.Enum)

    # -- reading and writing

    def read(self) -> dict[str, Any]:
        """Return the attributes that are state, by ``module.attribute``."""
        self._find()
        found: dict[str, Any] = {}
        if self._modules:
            cache: list[frozenset[int]] = []

            def named() -> frozenset[int]:
                if not cache:
                    cache.append(frozenset(map(id, self._namespace.copy().values())))
                return cache[0]

            for module_name, known in self._modules.items():
                if _attributes(known.module).get("__spec__") is not known.spec:
                    known = self._modules[module_name] = _Module(module_name, known.module)
                if not known.judged:
                    self._judge(known)
                for name, value in known.read(named):
                    found[f"{module_name}.{name}"] = value
        for (module_name, name), first in self._assigned.copy().items():
            module = sys.modules.get(module_name)
            if module_name not in self._modules and module is not None:
                value = _attributes(module).get(name, _ABSENT)
                if value is not first:
                    found[f"{module_name}.{name}"] = Missing.DELETED if value is _ABSENT else value
        self.names = frozenset(found)
        return found

    def require(self, names: Iterable[str]) -> None:
        """Import the modules of attributes, where that is possible."""
        for module in {name.rpartition(".")[0] for name in names if is_attribute(name)}:
            _import(module)

    def write(self, values: Mapping[str, Any], removed: Collection[str]) -> dict[str, str]:
        """Bind attributes past any ``__setattr__``, and undo others.

        Args:
            values: by name; names that are no attributes are left out.
            removed: attributes that were no state.

        Returns:
            Why attributes could not be bound, by name.
        """
        failures: dict[str, str] = {}
        self.require(values)
        self._find()
        for full in filter(is_attribute, removed):
            module_name, _, name = full.rpartition(".")
            known = self._modules.get(module_name)
            module = sys.modules.get(module_name)
            if known is not None:
                known.remove(name)
            elif module is not None:
                first = self._assigned.get((module_name, name), _ABSENT)
                _bind(module, name, Missing.DELETED if first is _ABSENT else first)
        for full in filter(is_attribute, values):
            module_name, _, name = full.rpartition(".")
            module = sys.modules.get(module_name)
            if module is None:
                failures[full] = f"{module_name} can't be imported: {_import(module_name)}"
                continue
            if module_name not in self._modules:
                first = _attributes(module).get(name, _ABSENT)
                self._assigned.setdefault((module_name, name), first)
            # A placeholder would be worse than what the module itself has there.
            if type(values[full]) is not DroppedReference:
                _bind(module, name, values[full])
        return failures

    def edited_since(self, full: str, moment: float) -> bool:
        """Tell whether an attribute is data of a module whose file is newer than that.

        Args:
            full: the attribute.
            moment: seconds since the epoch.
        """
        module_name, _, name = full.rpartition(".")
        known = self._modules.get(module_name)
        if known is None or name not in known.data:
            return False
        try:
            return os.stat(_attributes(known.module).get("__file__", "")).st_mtime > moment
        except (OSError, TypeError):
            return False


def _is_module(value: Any) -> TypeGuard[types.ModuleType]:
    return issubclass(type(value), types.ModuleType)  # isinstance() asks a proxy, which may be dead


def _current_directory() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:  # it has been removed
        return ""


def _import(name: str) -> str:
    """Import a module; return why that is not possible, if so."""
    if name in sys.modules:
        return ""
    try:
        importlib.import_module(name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a module's code may raise SystemExit
        return "".join(format_exception_only(error)).strip()
    return ""


def _bind(module: types.ModuleType, name: str, value: Any) -> None:
    if value is Missing.DELETED:
        _attributes(module).pop(name, None)
    else:
        _attributes(module)[name] = value
