"""What is pickled comes back as what it is: here, in a new process, in another Python."""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import contextvars
import inspect
import json
import linecache
import logging
import mmap
import os
import pathlib
import pickle
import queue
import selectors
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import types
import weakref
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest

from savepoint_kernel.exceptions import NotPicklable, UnrestorableState
from savepoint_kernel.serialize import portable
from savepoint_kernel.serialize.flat import LARGE, dumps_flat, dumps_plain
from savepoint_kernel.serialize.pickler import dumps
from savepoint_kernel.serialize.portable import loads
from savepoint_kernel.serialize.sources import REGISTRY
from savepoint_kernel.state.fingerprint import image
from savepoint_kernel.state.imager import measure

from . import pickling
from .harness import Kernel
from .pickling import Case, made_by, names_in, new_namespace, run_cell

ROOT = pathlib.Path(__file__).parents[2]
CASES = pickling.cases()


def find_pythons() -> dict[str, str]:
    """The interpreters of this machine that the kernel supports, by version."""
    found = {}
    for version in ("3.10", "3.11", "3.12", "3.13"):
        command = [str(ROOT / "scripts/find-python"), "--exactly", version]
        path = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
        if path:
            found[version] = path
    found["{}.{}".format(*sys.version_info)] = sys.executable
    return found


PYTHONS = find_pythons()


@pytest.fixture(autouse=True)
def _own_main(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells run as ``__main__``; that of pytest comes back. So do inspect's functions."""
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    monkeypatch.setattr(inspect, "getfile", inspect.getfile)
    monkeypatch.setattr(inspect, "findsource", inspect.findsource)
    REGISTRY.install()


def run_elsewhere(version: str, command: str, *directories: pathlib.Path) -> None:
    """Save or load all cases with another Python, which has nothing installed that we need."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "kernel"), "PYTHONHASHSEED": "random"}
    script = ROOT / "tests/kernel/pickling.py"
    done = subprocess.run(
        [PYTHONS[version], "-W", "error", str(script), command, *map(str, directories)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    failures = json.loads(done.stdout)
    assert failures == {}, "\n".join(f"{file}\n{error}" for file, error in failures.items())


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> list[pathlib.Path]:
    """Directories with the pickles that each version has saved."""
    directories = []
    for version in PYTHONS:
        directories.append(tmp_path_factory.mktemp(f"saved_by_{version}_"))
        run_elsewhere(version, "save", directories[-1])
        assert len(list(directories[-1].iterdir())) >= 60
    return directories


@pytest.mark.parametrize("version", PYTHONS)
def test_what_every_python_saves_this_one_loads(saved: list[pathlib.Path], version: str) -> None:
    run_elsewhere(version, "load", *saved)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_what_this_process_saves_it_loads(case: Case) -> None:
    namespace, values = made_by(case)
    data, buffers = dumps(values, namespace)
    pickling.check(case, data, buffers)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_unchanged_objects_give_equal_pickles(case: Case) -> None:
    namespace, values = made_by(case)
    first = dumps(values, namespace)[0]
    linecache.clearcache()
    portable_caches_cleared()
    assert dumps(values, namespace)[0] == first


def portable_caches_cleared() -> None:
    from savepoint_kernel.serialize import cellcode

    for cache in (cellcode.code_at, cellcode._parse, cellcode._statement_code):
        cache.cache_clear()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_loaded_objects_give_equal_pickles_each_time(case: Case) -> None:
    namespace, values = made_by(case)
    data, buffers = dumps(values, namespace)
    loaded = loads(data, namespace, buffers)
    second, buffers = dumps(loaded, namespace)
    third, _ = dumps(loads(second, namespace, buffers), namespace)
    assert third == second


USED = """
import abc, functools, inspect, typing, dataclasses
class B(abc.ABC):
    @abc.abstractmethod
    def m(self): ...
class C(B):
    def m(self): return super().__init__()
    @functools.cached_property
    def cp(self): return 1
@typing.runtime_checkable
class P(typing.Protocol):
    def m(self): ...
@functools.lru_cache
def cached(x): return x
@functools.singledispatch
def single(x): return x
@dataclasses.dataclass
class D:
    x: int = 1
def f(x: int = 1): return [x for x in range(300)], (lambda: x)
"""

USE = """
for i in range(100): f(); cached(i); single(i); single('')
c = C(); c.m(); c.cp; isinstance(c, B); isinstance(3, B); issubclass(int, B); isinstance(c, P)
for thing in (B, C, P, f, D):
    thing.__annotations__; inspect.getsource(thing); inspect.signature(thing)
    repr(thing); hash(thing); thing.__dict__; dir(thing)
B.__subclasses__(); typing.get_type_hints(f); D() == D(); repr(D())
class Sub(C): pass
del c, Sub, thing, i
"""


def test_using_what_a_cell_defined_does_not_change_its_pickle() -> None:
    namespace = new_namespace()
    run_cell(USED, namespace)
    values = names_in(namespace)
    before = dumps(values, namespace)[0]
    exec(USE, namespace)
    assert dumps(values, namespace)[0] == before


def test_running_a_cell_again_gives_functions_of_the_same_pickle() -> None:
    namespace = new_namespace()
    run_cell("def f(x=1): return x", namespace)
    first = namespace["f"]
    before = dumps(first, namespace)[0]
    REGISTRY.cell_id = "another"
    run_cell("def f(x=1): return x", namespace)
    REGISTRY.cell_id = None
    assert namespace["f"] is not first
    assert dumps(namespace["f"], namespace)[0] == before == dumps(first, namespace)[0]


def test_where_a_name_was_read_from_says_nothing_about_its_class() -> None:
    namespace = new_namespace()
    run_cell("class Reading: unit = 'm'", namespace)
    of_the_store = json.loads('"Reading"')
    assert of_the_store is not namespace["Reading"].__name__
    images = [
        image({name: namespace["Reading"]}, namespace, measure)
        for name in ("Reading", of_the_store)
    ]
    assert images[0] == images[1]


def test_a_change_of_a_function_or_class_changes_its_pickle() -> None:
    namespace = new_namespace()
    run_cell("def f(x=[]): return x\nclass C: pass\n", namespace)
    values = names_in(namespace)
    seen = [dumps(values, namespace)[0]]
    for change in ("f.a = 1", "f().append(1)", "C.x = 1", "C.m = lambda s: 1", "C.__doc__ = 'd'"):
        exec(change, namespace)
        seen.append(dumps(values, namespace)[0])
    assert len(set(seen)) == len(seen)


# -- classes in one process ------------------------------------------------------------------------


def test_instances_loaded_later_are_of_the_class_that_is_alive() -> None:
    namespace = new_namespace()
    run_cell("class C:\n    x = 1\nc = C()", namespace)
    data = dumps(namespace["c"], namespace)[0]
    namespace["C"].x = 2
    loaded = loads(data, namespace, deferred={})
    assert type(loaded) is namespace["C"]
    assert loaded.x == 2


def test_a_class_gets_its_attributes_back_in_place() -> None:
    namespace = new_namespace()
    run_cell("class C:\n    x = [1]\n    def m(self): return 'm'\nc = C()", namespace)
    cls, data = namespace["C"], dumps(namespace["C"], namespace)[0]
    del cls.m
    cls.x.append(2)
    cls.added = 1
    assert loads(data, namespace) is cls
    assert cls.x == [1]
    assert namespace["c"].m() == "m"
    assert not hasattr(cls, "added")
    assert loads(dumps(cls, namespace)[0], namespace) is cls


def test_a_class_defined_again_is_another_class() -> None:
    namespace = new_namespace()
    cell = "class C:\n    pass\nc = C()"
    run_cell(cell, namespace)
    old, data = namespace["C"], dumps(namespace["c"], namespace)[0]
    run_cell(cell, namespace)
    assert type(loads(data, namespace)) is old is not namespace["C"]


def test_loading_leaves_the_namespace_alone() -> None:
    namespace = new_namespace()
    run_cell(
        "def f(): return g()\ndef g(): return 1\nclass C:\n    def m(self): return g()", namespace
    )
    data = dumps({"f": namespace["f"], "C": namespace["C"]}, namespace)[0]
    fresh = new_namespace()
    before = dict(fresh)
    loaded = loads(data, fresh)
    assert {k: v for k, v in fresh.items() if k != "__builtins__"} == before
    with pytest.raises(NameError):
        loaded["f"]()
    fresh["g"] = lambda: 2
    assert loaded["f"]() == loaded["C"]().m() == 2


def test_a_function_does_not_drag_the_namespace_in() -> None:
    namespace = new_namespace()
    run_cell("big = b'x' * 1_000_000\nother = object\ndef f(): return big, f, other", namespace)
    assert len(dumps(namespace["f"], namespace)[0]) < 1000


CELLS = [
    "import functools, dataclasses\n@functools.lru_cache\n"
    "def f(n): return n if n < 2 else f(n - 1)",
    "@dataclasses.dataclass\nclass C:\n    x: int = 3\n    def m(self): return f(self.x), super()",
    "async def later(): return [(lambda: 1)(), await other()]\nasync def other(): return 2\n"
    "await later()",
    "c = C(); g = (lambda k: lambda: k)(8); g",
    "from savepoint_kernel.serialize.pickler import dumps\n"
    "from savepoint_kernel.serialize.portable import loads\n"
    "names = {n: globals()[n] for n in ('f', 'C', 'later', 'other', 'c', 'g')}\n"
    "data, _ = dumps(names, get_ipython().user_ns); loaded = loads(data, globals())",
]


def test_cells_of_a_kernel_are_saved_by_source(kernel: Kernel) -> None:
    for cell in CELLS:
        kernel.ok(cell)
    assert kernel.eval("b'load_bytecode' in data") == "False"
    assert kernel.eval("loaded['C'] is C, type(loaded['c']) is C, loaded['c'] == c") == (
        "(True, True, True)"
    )
    kernel.ok("f = C = c = None")
    kernel.ok("globals().update(loads(data, globals()))")
    kernel.ok("came = await later()")
    assert kernel.eval("c.m()[0], g(), c.x, came") == "(1, 8, 3, [1, 2])"
    assert kernel.eval("__import__('inspect').getsource(C)[:10]") == "'@dataclass'"


# -- code without source ---------------------------------------------------------------------------


def test_bytecode_of_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    namespace = new_namespace()
    exec("def f(): pass", namespace)
    data = dumps(namespace["f"], namespace)[0]
    monkeypatch.setattr(sys, "version_info", (3, 99, 0))
    with pytest.raises(UnrestorableState, match=r"'f' has no source.*this is 3\.99"):
        loads(data, namespace)


def test_a_cell_of_newer_syntax_is_refused() -> None:
    cell = portable.load_cell("/cells/newer", "f = lambda: ()()(\n", "", 1, None)
    with pytest.raises(UnrestorableState, match="can't compile the cell"):
        portable.load_code(cell, ("<lambda>",), 1, 0, 0)


def test_library_code_that_changed_is_refused() -> None:
    with pytest.raises(UnrestorableState, match="not what it was"):
        portable.load_library_code("contextlib", ("contextmanager", "helper"), 0, ("x", "|"))


def test_source_in_linecache_serves_as_a_cell() -> None:
    text = "def make(n):\n    return lambda: n\n"
    linecache.cache["<generated 1>"] = (len(text), None, text.splitlines(True), "<generated 1>")
    space: dict[str, Any] = {}
    exec(compile(text, "<generated 1>", "exec"), space)
    data = dumps(space["make"](4), {})[0]
    assert b"load_bytecode" not in data
    assert loads(data, {})() == 4


# -- arrays and frames -----------------------------------------------------------------------------


def round_trip(obj: Any) -> Any:
    data, buffers = dumps(obj, {})
    return loads(data, {}, [bytearray(buffer.raw()) for buffer in buffers])


def test_large_buffers_are_not_copied() -> None:
    array = np.arange(1_000_000)
    data, (buffer,) = dumps({"a": [array]}, {})
    assert len(data) < 1000
    assert np.shares_memory(np.frombuffer(buffer, array.dtype), array)


class Measured(np.ndarray[Any, Any]):
    """As numpy's documentation adds attributes to arrays."""

    def __array_finalize__(self, obj: Any) -> None:
        self.unit = getattr(obj, "unit", None)


def arrays() -> dict[str, Callable[[], list[Any]]]:
    base = np.arange(24.0).reshape(4, 6)
    mixed = np.array([1, "a", None, 2], dtype=object)
    record = np.zeros(3, dtype=[("x", "i4"), ("y", "f8")])
    boxes = np.array([(1, [2]), (3, None)], dtype=[("x", "i4"), ("o", object)])
    windows: Any = np.lib.stride_tricks.sliding_window_view
    strided: Any = np.lib.stride_tricks.as_strided
    masked: Any = np.ma.MaskedArray([1.0, 2.0, 3.0], mask=[0, 0, 1])
    masked_boxes: Any = np.ma.MaskedArray(mixed.copy(), mask=[0, 0, 1, 0])
    lone = np.arange(4.0).view(Measured).copy()  # it has no base
    locked = lone.copy()
    locked.flags.writeable = False
    return {
        "slice": lambda: [base, base[1:3]],
        "view first": lambda: [base[1:3], base],
        "reversed and transposed": lambda: [base, base[::-1, ::-2], base.T],
        "column-major": lambda: (lambda f: [f, f[1:], f.T[2]])(np.asfortranarray(base)),
        "overlapping views of a lost base": lambda: (lambda b: [b[2:6], b[4:8]])(np.arange(10)),
        "other type": lambda: [base, base.view("i8"), base.reshape(-1).view("u1")[3:9]],
        "fields": lambda: [record, record["y"], record[1:]["x"]],
        "objects": lambda: [mixed, mixed[::-1], mixed[1:3]],
        "broadcast": lambda: (lambda a: [a, np.broadcast_to(a, (5, 3))])(np.arange(3.0)),
        "read-only view": lambda: [base, np.broadcast_to(base[0], (2, 6))],
        "windows": lambda: [base, windows(base[0], 3), windows(base, (2, 2))],
        "windows of a lost base": lambda: [windows(np.arange(5), 3)] * 2,
        "strides": lambda: [base, strided(base, (2, 2), (8, 16)), strided(base, (2,), (48,))[1:]],
        "strided objects": lambda: [mixed, strided(mixed, (2, 2), (8, 16))[1]],
        "masked": lambda: [masked, masked._mask, masked[:2], masked[:2]._mask, masked.data],
        "masked objects": lambda: [masked_boxes[1:], masked_boxes, masked_boxes[::-1]._mask],
        "masked fields": lambda: (lambda m: [m, m["y"], m._mask])(np.ma.MaskedArray(record)),
        "records": lambda: [record, record.view(np.recarray), record.view(np.recarray)[1:].y],
        "records of objects": lambda: [boxes.view(np.recarray)[:1], boxes],
        "matrix": lambda: (lambda m: [m, m[0], m.A, m.T])(np.eye(3).view(np.matrix) * 2),
        "subclass": lambda: [lone[1:], lone, lone.view(np.ndarray)[:2]],
        "other subclass": lambda: [lone.view(np.matrix), lone],
        "read-only subclass": lambda: [locked, locked[:2]],
    }


@pytest.mark.parametrize("make", arrays().values(), ids=arrays())
def test_views_share_memory_again(make: Callable[[], list[Any]]) -> None:
    before = make()
    after = round_trip(before)
    for old, new in zip(before, after, strict=True):
        assert (type(old), old.dtype, old.strides, old.flags.writeable) == (
            type(new),
            new.dtype,
            new.strides,
            new.flags.writeable,
        )
        assert old.tolist() == new.tolist()
        assert vars(old).keys() == vars(new).keys() if hasattr(old, "__dict__") else True
    for i in range(len(before)):
        for j in range(i):
            shared = np.shares_memory(before[i], before[j])
            assert np.shares_memory(after[i], after[j]) == shared
    assert dumps(before, {})[0] == dumps(before, {})[0]


def test_masked_arrays_come_back_with_all_they_have() -> None:
    array: Any = np.ma.MaskedArray([1.0, 2.0, 3.0], mask=[0, 0, 1], fill_value=7, hard_mask=True)
    loaded, view = round_trip([array, array[:2]])
    assert loaded.fill_value == 7
    assert loaded.hardmask
    view[1] = np.ma.masked
    assert loaded.tolist() == [1, None, None]
    assert loaded.mask is not np.ma.nomask
    assert round_trip(np.ma.MaskedArray([1, 2]))._mask is np.ma.nomask
    assert round_trip(np.ma.masked) is np.ma.masked


@pytest.mark.parametrize("dtype", ["i4", "f4", "U3", "M8[D]", "?", "O", "i4,f8"])
def test_masked_array_that_is_shown_is_the_same(dtype: str) -> None:
    array: Any = np.ma.MaskedArray(np.zeros(3, dtype), mask=[0, 0, 1])
    before = dumps(array, {})[0]
    shown = repr(array)
    assert dumps(array, {})[0] == before
    assert repr(round_trip(array)) == shown


class Fresh:
    """Gives other arrays to each pickler."""

    def __reduce__(self) -> tuple[Any, ...]:
        made = np.arange(10)
        return list, ([made[:6], made[3:]],)


def test_arrays_made_for_the_pickle_are_taken_as_they_are() -> None:
    assert [part.tolist() for part in round_trip(Fresh())] == [[0, 1, 2, 3, 4, 5], [*range(3, 10)]]


def test_views_that_numpy_can_make_only_of_other_layouts_keep_their_values() -> None:
    strided = np.lib.stride_tricks.as_strided(np.arange(12), (3, 2), (32, 8))
    parts = [strided, strided[1:], strided[:, 0]]
    assert all(np.array_equal(a, b) for a, b in zip(parts, round_trip(parts), strict=True))
    record = np.array([(1, "a"), (2, None)], dtype=[("x", "i4"), ("o", object)])
    parts = [record, record["o"], record["x"]]
    after = round_trip(parts)
    assert [part.tolist() for part in after] == [part.tolist() for part in parts]


def test_arrays_that_share_nothing_bring_no_base() -> None:
    base = np.zeros(100_000)
    data, buffers = dumps([base[:10], base[10:20]], {})
    assert len(data) + sum(buffer.raw().nbytes for buffer in buffers) < 1000


def test_read_only_arrays_stay_read_only() -> None:
    array = np.arange(5)
    array.flags.writeable = False
    assert not round_trip(array).flags.writeable


def test_frames_that_pandas_shares_stay_independent() -> None:
    first = pd.DataFrame({"x": np.zeros(4), "y": list("abcd")})
    second = first.copy(deep=False)
    one, two = round_trip([first, second])
    one.loc[0, "x"] = 9.0
    # Before pandas 3 it shares them so that they are changed together.
    assert two.loc[0, "x"] == (9.0 if pd.__version__.startswith("2.") else 0.0)
    assert first.loc[0, "x"] == 0.0


def test_frames_and_arrays_in_notebook_objects() -> None:
    namespace = new_namespace()
    run_cell(
        "import numpy as np, pandas as pd\n"
        "class Model:\n    table = pd.DataFrame({'a': [1, 2], 'b': ['x', None]})\n"
        "    def __init__(self): self.w = np.ones(3); self.v = self.w[1:]\n"
        "    def fit(self, scale=np.float64(2)): self.w *= scale; return self\n"
        "model = Model().fit(); sums = (lambda t: lambda: t.a.sum())(Model.table)\n"
        "t = pd.Timestamp('2024-01-01'); c = pd.Categorical(['a', 'b'])",
        namespace,
    )
    data, buffers = dumps(names_in(namespace), namespace)
    loaded = loads(data, new_namespace(), [bytearray(b.raw()) for b in buffers])
    model = loaded["model"]
    model.fit()
    assert model.v.tolist() == [4, 4]
    assert loaded["sums"]() == 3
    assert loaded["t"] == pd.Timestamp("2024-01-01")


class Slotted(np.ndarray[Any, Any]):
    __slots__ = ("unit",)


class Doubled(np.ndarray[Any, Any]):
    """Saves itself, and no attributes."""

    def __reduce__(self) -> tuple[Any, ...]:
        return np.multiply, (self.view(np.ndarray), 2)


@pytest.mark.parametrize("kind", [Measured, Slotted])
@pytest.mark.parametrize("writeable", [True, False])
def test_attributes_of_arrays_come_back(kind: Any, writeable: bool) -> None:
    array = np.arange(3.0).view(kind)
    array.unit = ["m"]
    array.flags.writeable = writeable
    loaded, unit = round_trip([array, array.unit])
    assert type(loaded) is kind
    assert loaded.unit is unit
    assert unit == ["m"]
    assert loaded.tolist() == [0, 1, 2]
    assert loaded.flags.writeable == writeable
    assert not hasattr(round_trip(np.arange(3.0).view(Slotted)), "unit")


def test_arrays_with_their_own_way_to_be_pickled_are_left_to_it() -> None:
    loaded = round_trip(np.arange(3).view(Doubled))
    assert type(loaded) is np.ndarray
    assert loaded.tolist() == [0, 2, 4]


def indexes() -> dict[str, Callable[[], pd.Index]]:
    start = pd.Timestamp("2024-01-01")
    return {
        "times": lambda: pd.date_range(start, periods=4),
        "times without a frequency": lambda: pd.DatetimeIndex([start, start, start, "2025"]),
        "times of a zone": lambda: pd.date_range(start, periods=4, tz="Europe/Berlin"),
        "timedeltas": lambda: pd.timedelta_range("1h", periods=4),
        "periods": lambda: pd.period_range("2024-01", periods=4, freq="M"),
        "categories": lambda: pd.CategoricalIndex(list("abca")),
        "intervals": lambda: pd.interval_range(start, periods=4),
        "levels": lambda: pd.MultiIndex.from_product([[1, 2], pd.date_range(start, periods=2)]),
        "integers": lambda: pd.Index(pd.array([1, 2, None, 4], "Int64")),
        "booleans": lambda: pd.Index(pd.array([True, False, None, True], "boolean")),
        "strings": lambda: pd.Index(list("abcd")),
    }


def use(value: Any) -> None:
    """Ask for what pandas computes of a value, and keeps."""
    if isinstance(value, pd.DataFrame):
        value.to_html()
        value.isin([1]).sort_index()
        use(value.index)
        use(value.columns)
        if value.shape[1] == 2:
            value.groupby("k", observed=True).v.sum()
            use(value["k"].array)
        return
    assert str(value)
    for name in "dtype is_unique is_monotonic_increasing levels left year asi8".split():
        getattr(value, name, None)
    if isinstance(value, pd.Index):
        value.get_indexer_for(value.unique())
        use(value.array if value.nlevels == 1 else value.levels[1])


@pytest.mark.parametrize("make", indexes().values(), ids=indexes())
def test_what_pandas_keeps_of_its_results_is_left_out(make: Callable[[], pd.Index]) -> None:
    index = make()
    labels = index.to_flat_index() if index.nlevels > 1 else index
    values = (
        index,
        pd.DataFrame({"k": list("aabb"), "v": np.arange(4.0)}, index=index),
        pd.DataFrame({"k": labels, "v": np.arange(4.0)}),
        pd.DataFrame([[1, 2, 3, 4]], columns=index),
    )
    for value in values:
        before = dumps(value, {})[0]
        use(value)
        assert dumps(value, {})[0] == before
        loaded = round_trip(value)
        use(loaded)
        if value is index:
            pd.testing.assert_index_equal(loaded, index)
            assert getattr(loaded, "freq", None) == getattr(index, "freq", None)
        else:
            pd.testing.assert_frame_equal(loaded, value)


# -- files and other things outside ----------------------------------------------------------------


@pytest.mark.parametrize("mode", ["r", "rb"])
def test_a_file_being_read_is_read_on(tmp_path: pathlib.Path, mode: str) -> None:
    path = tmp_path / "lines"
    path.write_text("one\ntwo\nthrée\n", encoding="utf-8")
    with open(path, mode, encoding="utf-8" if mode == "r" else None) as file:
        file.readline()
        data = dumps([file, file], {})[0]
        first, second = loads(data, {})
        with first:
            assert first is second
            assert first.readline() in ("two\n", b"two\n")
            assert file.tell() == 4
    path.unlink()
    with pytest.raises(UnrestorableState, match="lines"):
        loads(data, {})


def test_text_whose_line_ends_are_not_known_is_refused(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(b"a\r\nb\r\n")
    with open(path, newline="") as file, pytest.raises(NotPicklable, match="line ends"):
        dumps(file, {})


def generator() -> Iterator[int]:
    yield 1


async def coroutine() -> None:
    pass


@pytest.fixture
def things(tmp_path: pathlib.Path) -> Iterator[dict[str, Any]]:
    """Objects that are refused, all closed in the end."""
    found: dict[str, Any] = {
        "Thread": threading.Thread(target=print),
        "lock": threading.Lock(),
        "RLock": threading.RLock(),
        "Condition": threading.Condition(),
        "Event": threading.Event(),
        "Semaphore": threading.BoundedSemaphore(),
        "local": threading.local(),
        "Queue": queue.LifoQueue(),
        "SimpleQueue": queue.SimpleQueue(),
        "generator": generator(),
        "frame": sys._getframe(),
        "ContextVar": contextvars.ContextVar("v"),
        "Context": contextvars.copy_context(),
        "proxy": weakref.proxy(generator),
        "memoryview": memoryview(b"abc")[1:],
        "class attributes": vars(Case),
        "logger": logging.Logger("not known"),
        "Handler": logging.NullHandler(),
    }
    closing: dict[str, Any] = {
        "coroutine": coroutine(),
        "Popen": subprocess.Popen(["true"], stdin=subprocess.PIPE),
        "socket": socket.socket(),
        "written": open(tmp_path / "written", "w"),  # noqa: SIM115
        "appended": open(tmp_path / "appended", "ab"),  # noqa: SIM115
        "loop": asyncio.new_event_loop(),
        "selector": selectors.DefaultSelector(),
        "connection": sqlite3.connect(":memory:"),
        "temporary": tempfile.NamedTemporaryFile(),  # noqa: SIM115
        "mmap": mmap.mmap(-1, 10),
    }
    executor = concurrent.futures.ThreadPoolExecutor(1)
    directory = tempfile.TemporaryDirectory(dir=tmp_path)
    finalizer = weakref.finalize(generator, print)
    (tmp_path / "map").write_bytes(bytes(80))
    mapped = np.memmap(tmp_path / "map", "f8")
    yield {
        **found,
        **closing,
        "executor": executor,
        "future": executor.submit(int),
        "directory": directory,
        "finalize": finalizer,
        "memmap": mapped,
    }
    finalizer.detach()
    directory.cleanup()
    executor.shutdown()
    closing["Popen"].stdin.close()
    closing.pop("Popen").wait()
    for thing in closing.values():
        thing.close()


def test_what_would_not_come_back_is_refused_with_a_reason(things: dict[str, Any]) -> None:
    refused = dict.fromkeys(things, "")
    for name, thing in things.items():
        try:
            dumps({"nested": [thing]}, {})
        except NotPicklable as error:
            refused[name] = str(error)
    assert [name for name, text in refused.items() if not text] == []
    assert all("can't be saved: " in text and "recreate" in text for text in refused.values())
    assert "'threading.Thread'" in refused["Thread"]
    assert "in the middle of its execution" in refused["generator"]


def test_a_type_of_a_refused_kind_can_be_saved() -> None:
    assert round_trip([threading.Thread, queue.Queue]) == [threading.Thread, queue.Queue]


# -- limits and errors -----------------------------------------------------------------------------


@pytest.mark.parametrize("value", [b"x" * 2000, ["y" * 10] * 2000, np.zeros(1000)])
def test_a_pickle_larger_than_the_limit_is_given_up(value: Any) -> None:
    with pytest.raises(NotPicklable, match="limit of 1000 bytes"):
        dumps([value, *map(str, range(3000))], {}, limit=1000)
    assert dumps(value, {}, limit=1_000_000)[0]


def test_buffers_count_for_the_limit() -> None:
    array = np.zeros(1000)
    assert dumps(array, {}, limit=9000)[1]
    with pytest.raises(NotPicklable):
        dumps(array, {}, limit=7900)


class Interrupting:
    def __reduce__(self) -> str:
        raise KeyboardInterrupt


def test_what_a_reduce_method_raises_gets_through() -> None:
    with pytest.raises(KeyboardInterrupt):
        dumps([Interrupting()], {})


def test_nothing_is_kept_of_what_was_pickled() -> None:
    class Thing:
        pass

    thing = Thing()
    reference = weakref.ref(thing)
    dumps([thing], {})
    del thing
    assert reference() is None


def test_objects_of_the_live_namespace_stand_for_themselves_only_there() -> None:
    namespace = new_namespace()
    copy = dict(namespace, x=1)
    loaded = loads(dumps([namespace, copy], namespace)[0], namespace)
    assert loaded[0] is namespace
    assert loaded[1] is not copy
    assert loaded[1]["x"] == 1


def test_sharing_among_plain_objects_is_kept() -> None:
    inner: list[Any] = []
    outer = {"a": inner, "b": [inner, (inner,)], "o": collections.OrderedDict(k=inner)}
    inner.append(outer)
    loaded = round_trip(outer)
    assert loaded["a"] is loaded["b"][0] is loaded["b"][1][0] is loaded["o"]["k"]
    assert loaded["a"][0] is loaded


def test_arrays_are_saved_where_torch_is_another_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", types.ModuleType("torch"))
    array = np.arange(6.0)
    first, second = round_trip([array, array[2:]])
    first[3] = 7
    assert second.tolist() == [2, 7, 4, 5]


def test_function_that_uses_a_package_that_is_its_own_attribute(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As torch is, which is ``torch.torch``."""
    (tmp_path / "circular" / "part").mkdir(parents=True)
    (tmp_path / "circular" / "__init__.py").write_text("import circular, circular.part")
    (tmp_path / "circular" / "part" / "__init__.py").write_text("import circular")
    monkeypatch.syspath_prepend(tmp_path)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec("import circular\ndef f(): return circular.circular.part.circular", namespace)
    pickled, _ = dumps(namespace["f"], namespace)
    assert loads(pickled, namespace)() is namespace["circular"]


@pytest.mark.parametrize(
    "value",
    [
        [1, -(2**80), 2.5, None, True] * LARGE,
        {number: number / 2 for number in range(LARGE)},
        {*range(LARGE)},
        [*map(str, range(LARGE))],
        {f"key {number}": f"value {number}" for number in range(LARGE)},
        {f"key {number}": number % 2 for number in range(LARGE)},
        {*(str(number).encode() for number in range(LARGE))},
        ["text", 2.5, 1j, None, False, *(str(number) for number in range(LARGE))],
    ],
    ids=range(8),
)
def test_numbers_and_strings_alone_are_pickled_as_by_the_other_way(value):
    pickled = dumps_flat("name", value)
    assert pickled == dumps_plain({"name": value})
    assert loads(pickled, {}) == {"name": value}


@pytest.mark.parametrize(
    "value",
    [
        *(
            [*first * LARGE, item]
            for first in ([1], ["a"])
            for item in (bytearray(b"c"), [], {}, {3}, (4,), print, int, object(), Decimal(1))
        ),
        *(
            [*range(LARGE), item]
            for item in ("a", b"b", 1j, frozenset(), pickle.PickleBuffer(b"x"))
        ),
        {**dict.fromkeys(range(LARGE), 0), "a": 1},
        {**{str(number): number for number in range(LARGE)}, "a": []},
        [*range(LARGE - 1)],
        tuple(range(LARGE)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_anything_beside_numbers_and_strings_is_noticed(value):
    assert dumps_flat("name", value) is None


@pytest.mark.parametrize(
    "labels",
    [
        [f"label {number % 7}" for number in range(LARGE)],
        [f"label {number // 10}" for number in range(100 * LARGE)],
        [f"label {number // 3 * 7 % 10_007}" for number in range(100 * LARGE)],
    ],
    ids=["few", "sorted", "many"],
)
def test_strings_that_repeat_are_not_loaded_as_many(labels):
    known = {label: label for label in labels}
    value = [known[label] for label in labels]
    assert dumps_flat("labels", value) is None
    loaded = loads(dumps_plain({"labels": value}), {})["labels"]
    assert loaded == value
    assert len({*map(id, loaded)}) == len(known)
