"""Which attributes a code object assigns, by its bytecode; `code_names` reads names likewise.

Of what object is not asked: whoever wants to know what is assigned to modules takes each of these
attributes of each module that the code has a name for, and finds most of them unchanged.
"""

from __future__ import annotations

import dis
import types
from collections.abc import Iterable, Iterator

_ASSIGNING = frozenset({dis.opmap["STORE_ATTR"], dis.opmap["DELETE_ATTR"]})

_IMPORT = dis.opmap["IMPORT_NAME"]

_LOCALS = frozenset(code for name, code in dis.opmap.items() if name.startswith("LOAD_FAST"))
"""Before the opcode that assigns: ``self.x = 1``, of which a class has many."""


def assigned_attributes(code: types.CodeType) -> set[str]:
    """Return the attributes that code assigns or deletes; code nested in it is left out.

    Those of local variables count only if the code imports something, which may be one. If it uses
    `setattr` or `delattr`, every word in its constants counts.
    """
    assigned = set(_assigned(code))
    if "setattr" in code.co_names or "delattr" in code.co_names:
        assigned.update(_words(code.co_consts))
    return assigned


def _assigned(code: types.CodeType) -> Iterator[str]:
    raw = code.co_code
    if _ASSIGNING.isdisjoint(raw[::2]):  # nearly always: 0.3 µs
        return
    locals_too = _IMPORT in raw[::2]
    high, before = 0, -1
    for opcode, low in zip(raw[::2], raw[1::2], strict=True):
        if opcode == dis.EXTENDED_ARG:
            high = (high | low) << 8
            continue
        if opcode in _ASSIGNING and (locals_too or before not in _LOCALS):
            yield code.co_names[high | low]
        high, before = 0, opcode


def _words(constants: Iterable[object]) -> Iterator[str]:
    for constant in constants:
        if isinstance(constant, str) and constant.isidentifier():
            yield constant
        elif isinstance(constant, tuple):
            yield from _words(constant)
