"""What is run inside a kernel: this file is sent there as text, so it uses the standard library.

Nothing of it stays in the user's namespace: `call` makes one expression whose names are its own.

Threads: the kernel's main thread. `call` belongs to the client; `not_json` serves both.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import linecache
import sys
import traceback
from pathlib import Path
from typing import Any

VALUE = "savepoint_value"
"""The payload of the reply that has what `evaluate` found."""

FILENAME = "<evaluate>"
"""Stands for the user's code in tracebacks."""


def call(function: str, *arguments: Any, awaits: bool = False) -> str:
    """Return the cell that calls a function of this file; arguments are JSON data."""
    source = Path(__file__).read_text(encoding="utf-8")
    values = f"*__import__('json').loads({json.dumps(arguments)!r})"
    code = f"(lambda its: (exec({source!r}, its), its[{function!r}]({values}))[1])"
    return f"{'await ' if awaits else ''}{code}({{'__name__': 'savepoint_remote'}})"


def prepare(paths: list[str], modules: list[str]) -> None:
    """Put directories first in ``sys.path``, then import modules."""
    sys.path[:] = [*paths, *(path for path in sys.path if path not in paths)]
    importlib.invalidate_caches()
    for name in modules:
        importlib.import_module(name)


async def evaluate(code: str, inputs: dict[str, Any]) -> None:
    """Run code in a copy of the namespace; what came of it goes with the reply.

    Interrupts go on: the kernel knows best whether it was one, or the time limit.

    Args:
        code: Python, or what IPython makes Python of.
        inputs: more names for it.
    """
    shell = get_ipython()  # type: ignore[name-defined]  # noqa: F821
    try:
        value = await _value(shell.transform_cell(code), {**shell.user_ns, **inputs})
        strange = not_json(value, "the value")
        found: dict[str, Any] = {"strange": strange} if strange else {"text": json.dumps(value)}
    except Exception as error:
        found = {"ename": type(error).__name__, "evalue": str(error), "traceback": _lines(error)}
    shell.payload_manager.write_payload({"source": VALUE, **found})


async def _value(code: str, scope: dict[str, Any]) -> Any:
    linecache.cache[FILENAME] = (len(code), None, code.splitlines(keepends=True), FILENAME)
    tree = ast.parse(code, FILENAME)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    await _run(compile(tree, FILENAME, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), scope)
    if not isinstance(last, ast.Expr):
        return None
    expression = ast.Expression(last.value)
    return await _run(compile(expression, FILENAME, "eval", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), scope)


def _lines(error: Exception) -> list[str]:
    """Return the traceback, from the user's code on."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename != FILENAME:
        frames = frames.tb_next
    return traceback.format_exception(type(error), error, frames)


async def _run(code: Any, scope: dict[str, Any]) -> Any:
    value = eval(code, scope)
    return await value if code.co_flags & inspect.CO_COROUTINE else value


def not_json(value: Any, name: str, around: tuple[int, ...] = ()) -> str:
    """Say which part of a value is not JSON data; empty if all of it is.

    A tuple counts as a list. Keys have to be strings: `json` would make strings of numbers, and of
    1 and "1" one.
    """
    if value is None or isinstance(value, (str, int)):
        return ""
    if isinstance(value, float):
        finite = value - value == 0
        return "" if finite else f"{name} is {value!r}, which JSON has no word for"
    if not isinstance(value, (dict, list, tuple)):
        return f"{name} is of type {type(value).__module__}.{type(value).__qualname__}"
    if id(value) in around:
        return f"{name} contains itself"
    around = (*around, id(value))
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                return f"{name} has the key {key!r}, which is no string"
    parts = value.items() if isinstance(value, dict) else enumerate(value)
    strange = (not_json(part, f"{name}[{key!r}]", around) for key, part in parts)
    return next(filter(None, strange), "")
