"""What is saved and loaded in `test_pickler`, by any Python: ``pickling.py save|load FOLDER...``.

A case is the text of cells, and a check of what they left. The check runs where the pickle was
loaded, with the loaded names in the live namespace. Code without source is for the version that
made it. Standard library only.
"""

from __future__ import annotations

import ast
import hashlib
import json
import pathlib
import pickle
import sys
import traceback
import types
from typing import Any, NamedTuple

from savepoint_kernel.exceptions import UnrestorableState
from savepoint_kernel.serialize.pickler import dumps
from savepoint_kernel.serialize.portable import loads
from savepoint_kernel.serialize.sources import REGISTRY

CELLS, CHECK = "--- cell\n", "--- check\n"


class Case(NamedTuple):
    """What a heading of ``pickling_cases.txt`` is followed by."""

    cells: list[str]
    check: str


def cases() -> dict[str, Case]:
    """Return the cases that this Python can run."""
    text = pathlib.Path(__file__).with_name("pickling_cases.txt").read_text(encoding="utf-8")
    found = {}
    for part in text.split("=== ")[1:]:
        name, _, body = part.partition("\n")
        cells, _, check = body.partition(CHECK)
        if not name.startswith("3.12") or sys.version_info >= (3, 12):
            found[name] = Case(cells.split(CELLS), check)
    return found


def run_cell(text: str, namespace: dict[str, Any]) -> str:
    """Run a cell as IPython does: recorded, statement by statement. Returns its file's name."""
    filename = f"/cells/{hashlib.sha256(text.encode()).hexdigest()[:16]}.py"
    REGISTRY.record(filename, text, text, 1)
    features = namespace.setdefault("<features>", [0])
    for statement in ast.parse(text).body:
        if isinstance(statement, ast.ImportFrom) and statement.module == "__future__":
            features[0] |= __import__("__future__").annotations.compiler_flag
        module = ast.Module([statement], [])
        exec(compile(module, filename, "exec", features[0] | 0x2000, dont_inherit=True), namespace)
    REGISTRY.note_classes(namespace)
    return filename


def new_namespace() -> dict[str, Any]:
    """Return the namespace of a new ``__main__``."""
    sys.modules["__main__"] = types.ModuleType("__main__")
    return vars(sys.modules["__main__"])


def made_by(case: Case) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run the cells of a case. Returns the namespace, and the names they left."""
    namespace = new_namespace()
    for text in case.cells:
        run_cell(text, namespace)
    return namespace, names_in(namespace)


def names_in(namespace: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in namespace.items() if k[:2] != "__" and k != "<features>"}


def check(case: Case, data: bytes, buffers: list[Any] | None = None) -> None:
    """Load what a case left into a new namespace, and check it."""
    namespace = new_namespace()
    namespace.update(loads(data, namespace, buffers))
    exec(compile(case.check, "<check>", "exec", dont_inherit=True), namespace)


def save(case: Case, file: pathlib.Path) -> None:
    namespace, values = made_by(case)
    data, buffers = dumps(values, namespace)
    raw = [buffer.raw().tobytes() for buffer in buffers]
    file.write_bytes(pickle.dumps((sys.version_info[:2], data, raw)))


def load(case: Case, file: pathlib.Path) -> None:
    version, data, raw = pickle.loads(file.read_bytes())
    foreign = file.name.startswith("bytecode") and version != sys.version_info[:2]
    try:
        check(case, data, raw)
    except UnrestorableState:
        if not foreign:
            raise
    else:
        assert not foreign


def main(command: str, *directories: str) -> None:
    """Save to a directory, or load all of some, and print what failed."""
    REGISTRY.install()
    failures = {}
    for directory in directories:
        for name, case in cases().items():
            file = pathlib.Path(directory) / f"{name.replace(': ', '-')}.pickle"
            try:
                if command == "save":
                    save(case, file)
                elif file.exists():  # syntax of 3.12 is saved by some only
                    load(case, file)
            except BaseException:
                failures[str(file)] = traceback.format_exc(limit=-4)
    print(json.dumps(failures))


if __name__ == "__main__":
    main(*sys.argv[1:])
