"""Which names a code object uses, by its bytecode.

`co_names` alone would do for reads, but it mixes globals with attributes: ``table.data`` would
count as a use of a global ``data``, which may be a gigabyte to verify. `dis.get_instructions` tells
them apart at 1 to 3 µs an instruction; a cell's code is new each time, so here its bytes are read
directly (0.06 µs an instruction). `tests` compare both over much of the standard library.
"""

from __future__ import annotations

import dis
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from types import CodeType

from .magic_effects import MagicCall

_LOADS = frozenset(
    dis.opmap[name]
    # The last one: class bodies inside functions and annotation scopes, Python 3.12.
    for name in ("LOAD_NAME", "LOAD_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS")
    if name in dis.opmap
)
_STORE_NAME = dis.opmap["STORE_NAME"]
_DELETE_NAME = dis.opmap["DELETE_NAME"]
_STORE_GLOBAL = dis.opmap["STORE_GLOBAL"]
_DELETE_GLOBAL = dis.opmap["DELETE_GLOBAL"]
_IMPORT_NAME = dis.opmap["IMPORT_NAME"]
_NAME_OPCODES = _LOADS | {
    _STORE_NAME,
    _DELETE_NAME,
    _STORE_GLOBAL,
    _DELETE_GLOBAL,
    _IMPORT_NAME,
}
_LOAD_GLOBAL = dis.opmap["LOAD_GLOBAL"]
_LOAD_GLOBAL_SHIFT = 1 if sys.version_info >= (3, 11) else 0
"""From 3.11 on the lowest bit of LOAD_GLOBAL's argument says "push NULL too"."""

_PADDING = frozenset({"CACHE", "EXTENDED_ARG", "NOP", "PRECALL", "PUSH_NULL"})

_ARGUMENTS_OF_SHELL_METHOD = {
    "run_line_magic": 2,
    "run_cell_magic": 3,
    "system": 1,
    "getoutput": 1,
}

_GIVE_FRAMES_OR_GLOBALS = frozenset(
    {
        "_current_frames",
        "_getframe",
        "currentframe",
        "f_back",
        "f_globals",
        "f_locals",
        "modules",
        "__globals__",
        "user_global_ns",
        "user_module",
        "user_ns",
    }
)
"""As an attribute, a name or a string (for getattr). Every way from a value in hand to the
namespace that does not start at a module or a builtin goes through one of them. `__dict__`, `vars`
of an object, `getattr` and `setattr` do not: they reach what the object's own name reaches."""

_UNPICKLE = frozenset({"read_pickle"})
_AT_NAME = re.compile(r"@\s*(\w+)")


@dataclass(frozen=True, slots=True)
class CodeNames:
    """What one code object, with all code nested in it, does with names.

    Attributes:
        loaded: globals it may read, in class bodies too.
        stored: what it binds in its namespace if run as the text of a cell.
        deleted: what it deletes then.
        stored_globally: bound by a ``global`` statement; nested code included.
        deleted_globally: deleted likewise.
        attributes: names of attributes, and all other names.
        imports: modules it imports, as written.
        magics: magics and system calls in it.
        defeat: what in it makes all names suspect.
    """

    loaded: frozenset[str]
    stored: frozenset[str]
    deleted: frozenset[str]
    stored_globally: frozenset[str]
    deleted_globally: frozenset[str]
    attributes: frozenset[str]
    imports: frozenset[str]
    magics: tuple[MagicCall, ...]
    defeat: str | None


def name_operations(code: CodeType) -> Iterator[tuple[int, str]]:
    """Each opcode of ``code`` itself that takes a global or an import, with the name."""
    names = code.co_names
    raw = code.co_code  # inline caches read as zeros, also when specialised or instrumented
    high = 0
    for opcode, low in zip(raw[::2], raw[1::2], strict=True):
        if opcode == dis.EXTENDED_ARG:
            high = (high | low) << 8
            continue
        if opcode in _NAME_OPCODES:
            index = high | low
            yield opcode, names[index >> _LOAD_GLOBAL_SHIFT if opcode == _LOAD_GLOBAL else index]
        high = 0


@lru_cache(maxsize=4096)
def code_names(code: CodeType) -> CodeNames:
    """Read ``code``. Remembered by content, so a cell that is run again costs nothing."""
    by_opcode: dict[int, set[str]] = {opcode: set() for opcode in _NAME_OPCODES}
    for opcode, name in name_operations(code):
        by_opcode[opcode].add(name)
    loaded = set[str]().union(*(by_opcode[opcode] for opcode in _LOADS))
    stored = by_opcode[_STORE_NAME]
    stored_globally = by_opcode[_STORE_GLOBAL]
    deleted_globally = by_opcode[_DELETE_GLOBAL]
    attributes = set(code.co_names)
    imports = by_opcode[_IMPORT_NAME]
    magics: list[MagicCall] = []
    strings: set[str] = set()
    defeat = None

    if "__annotations__" in loaded:
        stored.add("__annotations__")  # SETUP_ANNOTATIONS makes it, and has no argument
    if "get_ipython" in attributes:
        found = _magic_calls(code)
        magics += found or ()
        defeat = "get_ipython() gives the whole namespace" if found is None else None
    for constant in code.co_consts:
        if isinstance(constant, str):
            strings.add(constant)
        elif constant == ("*",):
            defeat = "what a star import binds is not known before it runs"
        elif isinstance(constant, CodeType):
            inner = code_names(constant)
            loaded |= inner.loaded
            stored_globally |= inner.stored_globally
            deleted_globally |= inner.deleted_globally
            attributes |= inner.attributes
            imports |= inner.imports
            magics += inner.magics
            defeat = defeat or inner.defeat

    if "query" in attributes or "eval" in attributes:  # of pandas: "a > @limit" reads `limit`
        loaded.update(*(_AT_NAME.findall(text) for text in strings))
    for word in (attributes | strings) & _GIVE_FRAMES_OR_GLOBALS | attributes & _UNPICKLE:
        defeat = defeat or f"{word} can reach any name"
    return CodeNames(
        frozenset(loaded),
        frozenset(stored),
        frozenset(by_opcode[_DELETE_NAME]),
        frozenset(stored_globally),
        frozenset(deleted_globally),
        frozenset(attributes),
        frozenset(imports),
        tuple(magics),
        defeat,
    )


def _magic_calls(code: CodeType) -> tuple[MagicCall, ...] | None:
    """Calls of the shell as IPython writes them for magics; None if it is used in another way."""
    steps = [
        (instruction.opname, instruction.argval)
        for instruction in dis.get_instructions(code)
        if instruction.opname not in _PADDING
    ]
    calls = []
    for position, (opname, value) in enumerate(steps):
        if value != "get_ipython" or opname == "LOAD_CONST":
            continue
        if opname in {"LOAD_NAME", "LOAD_GLOBAL"}:
            call = _magic_call(steps[position + 1 : position + 7])
            if call is None:
                return None
            calls.append(call)
        elif opname.startswith(("LOAD_ATTR", "LOAD_METHOD")):
            return None
    return tuple(calls)


def _magic_call(steps: list[tuple[str, object]]) -> MagicCall | None:
    """The call in what follows a load of ``get_ipython``."""
    match steps:
        case [(call, 0), (_, str(method)), *rest] if call.startswith("CALL"):
            count = _ARGUMENTS_OF_SHELL_METHOD.get(method, 0)
        case _:
            return None
    arguments = [
        value for opname, value in rest[:count] if opname == "LOAD_CONST" and isinstance(value, str)
    ]
    if not count or len(arguments) != count or not rest[count : count + 1]:
        return None
    opname, passed = rest[count]
    if not opname.startswith("CALL") or passed != count:
        return None
    if method in {"system", "getoutput"}:
        return MagicCall("!", line=arguments[0])
    return MagicCall(*arguments)
