"""Source of what cells define: inspect, %source, api.source."""

from __future__ import annotations

import re
import textwrap

import pytest

from .harness import Kernel

SETUP = """
import inspect
from savepoint_kernel import api as savepoint
"""


def source(kernel: Kernel, expression: str) -> str:
    return kernel.ok(f"print(inspect.getsource({expression}), end='')").text()


@pytest.fixture
def kernel(kernel: Kernel) -> Kernel:
    kernel.ok(SETUP)
    return kernel


@pytest.mark.parametrize(
    ("definition", "expression"),
    [
        ("def f(a, *, b=1):\n    return a + b\n", "f"),
        ("async def f():\n    return 1\n", "f"),
        ("class C:\n    x = 1\n", "C"),
        ("class C:\n    def m(self):\n        return 1\n", "C"),
        ("@staticmethod\ndef f():\n    pass\n", "f"),
        (
            "import functools\n@functools.lru_cache(\n    maxsize=3)\ndef f(x):\n    return x\n",
            "f",
        ),
        ("import dataclasses\n@dataclasses.dataclass(slots=True)\nclass C:\n    x: int\n", "C"),
        ("import enum\nclass C(enum.Enum):\n    A = 1\n", "C"),
        ("import typing\nclass C(typing.NamedTuple):\n    a: int\n", "C"),
    ],
)
def test_getsource_of_what_a_cell_defines(kernel: Kernel, definition: str, expression: str) -> None:
    kernel.ok(definition + "\nother = 1\n")
    expected = "\n".join(line for line in definition.splitlines() if not line.startswith("import "))
    assert source(kernel, expression).rstrip() == expected


def test_nested_functions_and_classes(kernel: Kernel) -> None:
    kernel.ok(
        """
def make():
    def inner():
        return 42
    class Local:
        y = 2
        def m(self): pass
    return inner, Local

class Outer:
    class Inner:
        z = 3

inner, Local = make()
"""
    )
    assert "return 42" in source(kernel, "inner")
    assert "class Local:" in source(kernel, "Local")
    assert source(kernel, "Outer.Inner").strip().startswith("class Inner:")
    assert "class Local:" in source(kernel, "Local.m.__globals__['Local']")


def test_lambda_has_its_line(kernel: Kernel) -> None:
    kernel.ok("square = lambda x: x * x")
    assert source(kernel, "square").strip() == "square = lambda x: x * x"


def test_each_object_maps_to_the_cell_that_made_it(kernel: Kernel) -> None:
    kernel.ok("def f():\n    return 'first'\nclass C:\n    v = 'first'\n")
    kernel.ok("old_f, old_C = f, C")
    kernel.ok("\n\ndef f():\n    return 'second'\nclass C:\n    v = 'second'\n")
    assert "first" in source(kernel, "old_f")
    assert "first" in source(kernel, "old_C")
    assert "second" in source(kernel, "f")
    assert "second" in source(kernel, "C")


def test_classes_of_a_failed_cell_have_source(kernel: Kernel) -> None:
    result = kernel.run("class Half:\n    v = 1\n\nraise ValueError\n")
    assert result.content["ename"] == "ValueError"
    assert source(kernel, "Half") == "class Half:\n    v = 1\n"


def test_api_names_cell_and_line(kernel: Kernel) -> None:
    cell = kernel.ok("# comment\ndef f():\n    pass\n", metadata={"cellId": "my-cell"})
    kernel.ok("found = savepoint.source(f)")
    assert kernel.eval("found.text, found.line, found.cell.cell_id") == repr(
        ("def f():\n    pass\n", 2, "my-cell")
    )
    assert kernel.eval("found.cell.execution_count") == str(cell.content["execution_count"])
    assert (
        kernel.eval(
            "found.cell.digest == __import__('hashlib').sha256("
            "b'# comment\\ndef f():\\n    pass\\n').hexdigest()"
        )
        == "True"
    )


def test_source_magic_shows_cell_and_text(kernel: Kernel) -> None:
    count = kernel.ok("class C:\n    v = 1\n").content["execution_count"]
    assert kernel.ok("%source C").text() == f"# In [{count}], line 1\nclass C:\n    v = 1\n"


def test_source_of_a_library_names_its_file(kernel: Kernel) -> None:
    kernel.ok("import textwrap")
    shown = kernel.ok("%source textwrap.dedent").text()
    assert shown.splitlines()[0].startswith(f"# {textwrap.__file__}, line ")
    assert "def dedent(text):" in shown


@pytest.mark.parametrize(
    ("setup", "name", "message"),
    [
        ("exec('def made(): pass')", "made", "exec()"),
        ("", "len", "exec() or by code that is not Python"),
        ("number = 3", "number", "'int' is not a function, method or class"),
        ("", "nothing", "is not defined"),
        ("", "", "needs the name"),
    ],
)
def test_no_source_is_said_with_its_reason(
    kernel: Kernel, setup: str, name: str, message: str
) -> None:
    kernel.ok(setup or "pass")
    result = kernel.run(f"%source {name}")
    assert result.content["ename"] == "UsageError"
    assert message in result.content["evalue"]


def test_api_raises_for_exec_made_functions(kernel: Kernel) -> None:
    kernel.ok("exec('def made(): pass')")
    result = kernel.run("savepoint.source(made)")
    assert result.content["ename"] == "SourceNotAvailable"
    assert "exec()" in result.content["evalue"]


def test_source_survives_autoreload_and_a_cleared_linecache(
    kernel: Kernel, tmp_path: object
) -> None:
    kernel.ok(f"import sys; sys.path.insert(0, {str(tmp_path)!r})")
    kernel.ok(
        f"open({str(tmp_path)!r} + '/reloaded_module.py', 'w').write('def g():\\n    return 1\\n')"
    )
    kernel.ok("%load_ext autoreload\n%autoreload 2\nimport reloaded_module")
    kernel.ok("def f():\n    return reloaded_module.g()\nclass C:\n    v = 1\n")
    kernel.ok(
        "import os\n"
        f"path = {str(tmp_path)!r} + '/reloaded_module.py'\n"
        "open(path, 'w').write('def g():\\n    return 2222\\n')\n"
        "os.utime(path, (2_000_000_000, 2_000_000_000))"
    )
    assert kernel.eval("f()") in ("1", "2222")
    kernel.ok("import linecache; linecache.clearcache()")
    assert kernel.ok("print(f())").text() == "2222\n"
    assert source(kernel, "f") == "def f():\n    return reloaded_module.g()\n"
    assert source(kernel, "C") == "class C:\n    v = 1\n"
    assert "2222" in source(kernel, "reloaded_module.g")
    kernel.ok("%autoreload 0")


def test_question_marks_show_the_source_of_a_class(kernel: Kernel) -> None:
    kernel.ok("class Asked:\n    v = 1\n")
    (page,) = kernel.ok("Asked??").content["payload"]
    shown = re.sub(r"\x1b\[[\d;]*m", "", page["data"]["text/plain"])
    assert "class Asked:" in shown


def test_a_class_with_a_foreign_file_attribute_is_still_found(kernel: Kernel) -> None:
    kernel.ok("__file__ = '/nowhere/else.py'")
    kernel.ok("class C:\n    v = 1\n")
    assert source(kernel, "C") == "class C:\n    v = 1\n"
