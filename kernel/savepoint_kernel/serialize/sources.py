"""Source of what cells define: every cell is recorded, every function and class finds its cell.

ipykernel names a cell's code after a hash of its text, so a function's ``co_filename`` says which
cell made it, and linecache holds that text. Classes carry no such name: `inspect.getsource` of a
class defined in a cell fails in every Python up to 3.13. Here a class is located by, in order:

1. what was noted when its cell had run (the class found under its name, same qualname);
2. a method whose code lies in a cell, inside a class statement of the same qualname;
3. ``__firstlineno__`` (Python 3.13), or else the newest cell that defines the qualname.

`inspect.getfile` and `inspect.findsource` ask here first for classes of ``__main__``; everything
built on them (inspect.getsource, ``??``, ``%psource``, debuggers) then works. Replacing
``builtins.__build_class__`` would tell the place exactly, but adds a Python frame below every class
body and metaclass, which code that counts frames notices.

Limit: two executions of the same text are one source; the record names the latest.

Threads: written on the main thread between cells; read from any.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import linecache
import types
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..exceptions import SourceNotAvailable

_MAIN = "__main__"


@dataclass(frozen=True, slots=True)
class ClassStatement:
    """One ``class`` statement of a cell; lines are 1-based and inclusive."""

    qualname: str
    first_line: int
    last_line: int


@dataclass(frozen=True)
class CellRecord:
    """One cell as it was run.

    Attributes:
        filename: what ``co_filename`` of its code says; derived from the text.
        text: the code that ran, after IPython's transformations.
        digest: SHA-256 of the cell as the user wrote it, in hex.
        execution_count: of its latest run.
        cell_id: the front end's id of the cell at its latest run, if it sent one.
    """

    filename: str
    text: str
    digest: str
    execution_count: int
    cell_id: str | None
    lines: list[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "lines", [line + "\n" for line in self.text.splitlines()])

    @functools.cached_property
    def classes(self) -> tuple[ClassStatement, ...]:
        """The class statements in order of appearance."""
        if "class" not in self.text:
            return ()
        try:
            return tuple(_class_statements(ast.parse(self.text), ""))
        except SyntaxError:
            return ()  # a cell that never compiled defines nothing


def _class_statements(node: ast.AST, prefix: str) -> Iterator[ClassStatement]:
    for child in ast.iter_child_nodes(node):
        inner = prefix
        if isinstance(child, ast.ClassDef):
            name = prefix + child.name
            first = min([child.lineno, *(d.lineno for d in child.decorator_list)])
            yield ClassStatement(name, first, child.end_lineno or child.lineno)
            inner = f"{name}."
        elif isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            inner = f"{prefix}{child.name}.<locals>."
        yield from _class_statements(child, inner)


@dataclass(frozen=True, slots=True)
class Source:
    """Where an object was defined.

    Attributes:
        text: its source.
        filename: the file, or the name of the cell's code.
        line: 1-based number of its first line there.
        cell: the cell that made it; None for code from a file.
    """

    text: str
    filename: str
    line: int
    cell: CellRecord | None


class SourceRegistry:
    """The cells this process has run."""

    def __init__(self) -> None:
        self._cells: dict[str, CellRecord] = {}
        self._first: dict[str, CellRecord] = {}
        self._classes: weakref.WeakKeyDictionary[type, tuple[CellRecord, int]] = (
            weakref.WeakKeyDictionary()
        )
        self.cell_id: str | None = None
        """Id of the cell being run; set by the executor."""

    def record(self, filename: str, raw: str, text: str, execution_count: int) -> None:
        """Remember a cell that is about to run; the latest of one text counts."""
        digest = hashlib.sha256(raw.encode("utf-8", "surrogatepass")).hexdigest()
        self._cells.pop(filename, None)  # keep the order of execution
        cell = CellRecord(filename, text, digest, execution_count, self.cell_id)
        self._cells[filename] = cell
        self._first.setdefault(filename, cell)

    def add(self, cell: CellRecord) -> CellRecord:
        """Take in a cell of another session, as if it had run before all others.

        Returns:
            The cell known under that name, should there be one of this text.
        """
        if cell.filename not in self._cells:
            self._cells = {cell.filename: cell, **self._cells}
        self._first.setdefault(cell.filename, cell)
        known = self.cell_of(cell.filename)
        return known if known is not None and known.text == cell.text else cell

    @property
    def texts(self) -> list[str]:
        """The text of each cell, in the order of the latest execution."""
        return [cell.text for cell in self._cells.values()]

    def first(self, cell: CellRecord) -> CellRecord:
        """Return a cell as it was run first: the record that stays the same in pickles."""
        first = self._first.get(cell.filename, cell)
        return first if first.text == cell.text else cell

    def note_class(self, cls: type, cell: CellRecord, line: int) -> None:
        """Remember where a class was defined that did not come from running ``cell`` here."""
        self._classes[cls] = (cell, line)

    def note_classes(self, namespace: Mapping[str, Any]) -> None:
        """Remember which classes the latest cell has left in ``namespace``."""
        if not self._cells:
            return
        cell = next(reversed(self._cells.values()))
        for statement in cell.classes:
            found: Any = None
            scope = namespace
            for part in statement.qualname.split("."):
                found = scope.get(part)
                if not isinstance(found, type):
                    break
                scope = vars(found)
            if isinstance(found, type) and found.__qualname__ == statement.qualname:
                known = self._classes.get(found)
                if known is None or known[0].filename == cell.filename:
                    self._classes[found] = (cell, statement.first_line)

    def cell_of(self, filename: str) -> CellRecord | None:
        """Return the cell whose code is called ``filename``; its lines are in linecache again."""
        cell = self._cells.get(filename)
        if cell is not None and filename not in linecache.cache:
            # linecache.clearcache() was called.
            linecache.cache[filename] = (len(cell.text), None, cell.lines, filename)
        return cell

    def locate_class(self, cls: type) -> tuple[CellRecord, int] | None:
        """Return the cell that made ``cls`` and the 1-based line of its statement."""
        if cls.__module__ != _MAIN:
            return None
        located = self._classes.get(cls) or self._from_methods(cls) or self._from_name(cls)
        if located is not None:
            self.cell_of(located[0].filename)
            self._classes[cls] = located
        return located

    def _from_methods(self, cls: type) -> tuple[CellRecord, int] | None:
        for code in _codes(cls):
            cell = self._cells.get(code.co_filename)
            for statement in cell.classes if cell is not None else ():
                inside = statement.first_line <= code.co_firstlineno <= statement.last_line
                if cell is not None and inside and statement.qualname == cls.__qualname__:
                    return cell, statement.first_line
        return None

    def _from_name(self, cls: type) -> tuple[CellRecord, int] | None:
        first_line = vars(cls).get("__firstlineno__")
        for cell in reversed(self._cells.values()):
            for statement in reversed(cell.classes):
                if statement.qualname == cls.__qualname__ and first_line in (
                    None,
                    statement.first_line,
                ):
                    return cell, statement.first_line
        return None

    def source(self, obj: Any) -> Source:
        """Return the source of a function, method or class.

        Raises:
            SourceNotAvailable: it was made by exec(), by C code, or is no such thing.
        """
        try:
            lines, first = inspect.getsourcelines(obj)
            filename = inspect.getsourcefile(obj) or inspect.getfile(obj)
        except (OSError, TypeError, IndexError):
            raise SourceNotAvailable(_why_no_source(obj)) from None
        return Source("".join(lines), filename, max(first, 1), self.cell_of(filename))

    def install(self) -> None:
        """Let `inspect` find classes defined in cells. Once per process."""
        getfile, findsource = inspect.getfile, inspect.findsource

        @functools.wraps(getfile)
        def getfile_of_cells(object: Any) -> str:
            located = self.locate_class(object) if isinstance(object, type) else None
            return located[0].filename if located is not None else getfile(object)

        @functools.wraps(findsource)
        def findsource_of_cells(object: Any) -> tuple[list[str], int]:
            if isinstance(object, type):
                located = self.locate_class(object)
                if located is not None:
                    return list(located[0].lines), located[1] - 1
            else:
                code = getattr(object, "__code__", None)
                if isinstance(code, types.CodeType):
                    self.cell_of(code.co_filename)
            return findsource(object)

        inspect.getfile = getfile_of_cells
        inspect.findsource = findsource_of_cells


def _codes(cls: type) -> Iterator[types.CodeType]:
    """Code objects of what a class statement defines: methods, properties, nested wrappers."""
    for value in list(vars(cls).values()):
        candidates = [value, getattr(value, "fget", None), getattr(value, "func", None)]
        for candidate in candidates:
            function = getattr(candidate, "__func__", candidate)
            code = getattr(function, "__code__", None)
            if isinstance(code, types.CodeType) and getattr(
                function, "__qualname__", ""
            ).startswith(f"{cls.__qualname__}."):
                yield code


def _why_no_source(obj: Any) -> str:
    name = getattr(obj, "__qualname__", None)
    if name is None:
        return (
            f"no source: an object of type {type(obj).__qualname__!r} is not a function, method or "
            "class; ask for its type instead"
        )
    return f"no source for {name!r}: it was made by exec() or by code that is not Python"


REGISTRY = SourceRegistry()
"""The registry of this process; linecache and inspect, which it serves, are process-wide too."""
