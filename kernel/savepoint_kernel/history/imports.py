"""Which names stand for what cells imported: those that ``%clear --keep-imports`` keeps.

The value does not tell. ``List`` of typing is no class, ``pi`` a float like any other, and after
``show = print`` a name that nobody imported stands for a function of a module. So the cells are
read. A name that nothing but import statements binds came by one; one that something else binds too
did if it stands for what the import gives now. Only of a name that no cell binds (``%run``,
``exec``, a startup file) the value decides.

Limit: what magics bind is known as far as `magic_effects` knows it.

Threads: the main thread.
"""

from __future__ import annotations

import ast
import sys
import types
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

from ..state.code_names import code_names
from ..state.magic_effects import effect

_MISSING = object()

_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)


class _Origin(NamedTuple):
    """What an import statement binds a name to: a module, or an attribute of one."""

    module: str
    attribute: str | None = None

    def value(self) -> Any:
        """Return it as it is now."""
        module: Any = sys.modules.get(self.module, _MISSING)
        if self.attribute is None:
            return module
        with suppress(Exception):  # a module may have a __getattr__
            return getattr(module, self.attribute)
        return sys.modules.get(f"{self.module}.{self.attribute}", _MISSING)


class Imports:
    """What cells have bound, by import statements and otherwise.

    Args:
        cells: their texts.
        transform: turns a cell into Python.
    """

    def __init__(self, cells: Iterable[str], transform: Callable[[str], str]) -> None:
        self._transform = transform
        self._imported: dict[str, set[_Origin]] = {}
        self._otherwise: set[str] = set()
        waiting = [*dict.fromkeys(text.rstrip() for text in cells)]
        with warnings.catch_warnings():  # which the cells have caused when they ran
            warnings.simplefilter("ignore")
            while waiting:
                waiting += self._read(waiting.pop())

    def include(self, name: str, value: Any) -> bool:
        """Tell whether a name stands for what was imported."""
        origins = self._imported.get(name, set())
        if name in self._otherwise:
            return any(origin.value() is value for origin in origins)
        return bool(origins) or _is_of_module(value)

    def _read(self, text: str) -> tuple[str, ...]:
        """Read a cell; returns the texts that its magics run as cells."""
        try:
            tree = self._parse(text)
            self._note(tree)
            if "get_ipython" not in text and "%" not in text:
                return ()
            flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
            magics = code_names(compile(tree, "<cell>", "exec", flags, dont_inherit=True)).magics
        except Exception:  # it never ran; transformers are users' code, too
            return ()
        known = [found for call in magics if (found := effect(call)) is not None]
        self._otherwise.update(*(found.binds for found in known))
        return tuple(text for found in known for text in found.runs)

    def _parse(self, text: str) -> ast.Module:
        with suppress(SyntaxError):
            return ast.parse(text)
        return ast.parse(self._transform(text))

    def _note(self, tree: ast.Module) -> None:
        # With each node, the names that it binds in the namespace: None for all.
        waiting: list[tuple[ast.AST, frozenset[str] | None]] = [(tree, None)]
        while waiting:
            node, declared = waiting.pop()
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                for name, origin in _bound_by(node):
                    if declared is None or name in declared:
                        self._imported.setdefault(name, set()).add(origin)
                continue
            self._otherwise |= {n for n in _names_of(node) if declared is None or n in declared}
            if isinstance(node, _SCOPES):
                declared = _globals_of(node)
            if isinstance(node, ast.comprehension):  # has variables of its own
                waiting += [(part, declared) for part in (node.iter, *node.ifs)]
            else:
                waiting += [(child, declared) for child in ast.iter_child_nodes(node)]


def _bound_by(statement: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, _Origin]]:
    for alias in statement.names:
        if isinstance(statement, ast.Import):
            top = alias.name.partition(".")[0]
            yield alias.asname or top, _Origin(alias.name if alias.asname else top)
        elif statement.module is None or statement.level:
            continue  # a cell is in no package
        elif alias.name == "*":
            for name in _exported_by(sys.modules.get(statement.module)):
                yield name, _Origin(statement.module, name)
        else:
            yield alias.asname or alias.name, _Origin(statement.module, alias.name)


def _exported_by(module: types.ModuleType | None) -> list[str]:
    names = () if module is None else vars(module)
    exported = getattr(module, "__all__", None)
    return [name for name in names if name[:1] != "_"] if exported is None else [*exported]


def _names_of(node: ast.AST) -> Iterator[str]:
    """Yield the names that a node binds, those in it left out; no import."""
    if isinstance(node, ast.Name):
        if isinstance(node.ctx, ast.Store):
            yield node.id
    else:
        for field in ("name", "rest"):  # def, class, except, match
            name = getattr(node, field, None)
            if isinstance(name, str):
                yield name


def _globals_of(scope: ast.AST) -> frozenset[str]:
    statements = (node for node in ast.walk(scope) if isinstance(node, ast.Global))
    return frozenset(name for statement in statements for name in statement.names)


def _is_of_module(value: Any) -> bool:
    """Tell whether a value is a module, or a function or class of one."""
    if isinstance(value, types.ModuleType):
        return True
    of_module = isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType))
    return of_module and value.__module__ not in {"__main__", None}
