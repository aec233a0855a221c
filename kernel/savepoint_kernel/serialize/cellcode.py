"""Finding a function's code in the text of the cell that made it, in any version of Python.

A cell is compiled again and the code object picked out of the result. What identifies it must mean
the same to every compiler:

* *path*: the names of the functions and classes around it, its own last. Comprehensions are left
  out (Python 3.12 compiles most of them in line), and so are the scopes of type parameters, which
  are no statements.
* *line*: the first one, that of the first decorator where there is one.
* *ordinal*: its rank in the syntax tree among those of the same path and line, which only lambdas
  can share. While one of these is looked for, the others are moved to lines below the cell. The
  order of ``co_consts`` would not do: a compiler keeps one of several equal code objects, and what
  is equal differs between versions (3.12 compares columns, 3.10 does not).

Like IPython this compiles statement by statement, so that a ``from __future__ import`` holds from
its statement on. ``from __future__ import annotations`` is the only such feature that still
changes code; others are not looked at.
"""

from __future__ import annotations
import __future__

import ast
import functools
import types
from collections.abc import Iterator
from typing import Any, NamedTuple

ANNOTATIONS = __future__.annotations.compiler_flag


class Place(NamedTuple):
    """Where in a cell a function is written; the module's text explains the three parts."""

    path: tuple[str, ...]
    line: int
    ordinal: int


class _Written(NamedTuple):
    path: tuple[str, ...]
    line: int
    node: ast.expr | ast.stmt
    statement: int


class _Cell:
    """A cell's statements and all functions in them."""

    def __init__(self, text: str) -> None:
        self.lines = text.count("\n") + 1
        self.statements = ast.parse(text).body
        self.functions = [
            written
            for index, statement in enumerate(self.statements)
            for written in _written_in(statement, (), index)
        ]

    def at(self, place: Place) -> list[_Written]:
        """Return the functions of that path and line, in the order of ordinals."""
        return [w for w in self.functions if w.line == place.line and w.path == place.path]


_parse = functools.lru_cache(maxsize=256)(_Cell)


@functools.lru_cache(maxsize=4096)
def code_at(text: str, filename: str, place: Place, features: int) -> types.CodeType | None:
    """Compile a cell again and return the code of the function at ``place``.

    Args:
        text: the cell, after IPython's transformations.
        filename: what ``co_filename`` is to say.
        place: where the function is written.
        features: `ANNOTATIONS` if that feature was on, else 0.

    Returns:
        None if there is no function at that place.

    Raises:
        SyntaxError: this Python does not know the syntax of the cell.
    """
    cell = _parse(text)
    here = cell.at(place)
    if not 0 <= place.ordinal < len(here):
        return None
    if len(here) == 1:
        module = _statement_code(text, filename, here[0].statement, features)
    else:
        cell = _Cell(text)  # not the one that is kept: its lines will be wrong
        here = cell.at(place)
        for other in here:
            if other is not here[place.ordinal]:
                other.node.lineno += cell.lines
                other.node.end_lineno = (other.node.end_lineno or 0) + cell.lines
        module = _compile(cell, filename, here[place.ordinal].statement, features)
    for path, code in _codes(module, ()):
        if path == place.path and code.co_firstlineno == place.line:
            return code
    return None


def place_of(code: types.CodeType, text: str) -> Place | None:
    """Return where in a cell ``code`` was written; None if that text does not give this code.

    It does not if something changed it afterwards, or the syntax tree before (``ast_transformers``
    of IPython). Only code of the running interpreter is compared.
    """
    seen: dict[tuple[tuple[str, ...], int], int] = {}
    features = code.co_flags & ANNOTATIONS
    try:
        for written in _parse(text).functions:
            ordinal = seen.get((written.path, written.line), 0)
            seen[written.path, written.line] = ordinal + 1
            if written.line != code.co_firstlineno or written.path[-1] != code.co_name:
                continue
            place = Place(written.path, written.line, ordinal)
            found = code_at(text, code.co_filename, place, features)
            if found is not None and _content(found) == _content(code):
                return place
    except (SyntaxError, ValueError):  # ValueError: a null character
        pass
    return None


def _written_in(node: ast.AST, path: tuple[str, ...], statement: int) -> Iterator[_Written]:
    """Yield the functions of a syntax tree in a fixed order, with the path of each."""
    inside: list[ast.AST] = []
    inner = path
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        line = node.decorator_list[0].lineno if node.decorator_list else node.lineno
        inner, inside = (*path, node.name), list(node.body)
        yield _Written(inner, line, node, statement)
    elif isinstance(node, ast.Lambda):
        inner, inside = (*path, "<lambda>"), [node.body]
        yield _Written(inner, node.lineno, node, statement)
    elif isinstance(node, ast.ClassDef):
        inner, inside = (*path, node.name), list(node.body)
    for child in ast.iter_child_nodes(node):
        # Decorators, defaults, annotations and bases belong to the scope around.
        scope = inner if any(child is body for body in inside) else path
        yield from _written_in(child, scope, statement)


@functools.lru_cache(maxsize=256)
def _statement_code(text: str, filename: str, statement: int, features: int) -> types.CodeType:
    return _compile(_parse(text), filename, statement, features)


def _compile(cell: _Cell, filename: str, statement: int, features: int) -> types.CodeType:
    module = ast.Module([cell.statements[statement]], [])
    flags = features | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    code: types.CodeType = compile(module, filename, "exec", flags, dont_inherit=True)
    return code


def _codes(
    code: types.CodeType, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], types.CodeType]]:
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            name = const.co_name
            # <listcomp>, <genexpr>, <generic parameters of f> ... but <lambda> counts.
            counts = not name.startswith("<") or name == "<lambda>"
            inner = (*path, name) if counts else path
            if counts:
                yield inner, const
            yield from _codes(const, inner)


def _content(const: Any) -> Any:
    """Return what tells constants apart, code included.

    Code objects of 3.11 that have run are unequal to new ones (the inline caches count); equal
    numbers may be of different types.
    """
    if isinstance(const, types.CodeType):
        return (
            *(const.co_name, const.co_code, const.co_firstlineno, const.co_flags),
            *(const.co_argcount, const.co_posonlyargcount, const.co_kwonlyargcount),
            *(const.co_names, const.co_varnames, const.co_freevars, const.co_cellvars),
            tuple(map(_content, const.co_consts)),
        )
    if isinstance(const, tuple):
        return tuple(map(_content, const))
    if isinstance(const, frozenset):
        return frozenset(map(_content, const))
    return type(const), repr(const) if isinstance(const, (float, complex)) else const
