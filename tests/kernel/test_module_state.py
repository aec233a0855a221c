"""State that hangs below modules, and functions with globals of their own."""

from __future__ import annotations

import dis
import importlib
import itertools
import json
import subprocess
import sys
import types
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from savepoint_kernel.state.assignments import assigned_attributes
from savepoint_kernel.state.modules import ModuleAttributes

from .harness import Kernel, start_kernel
from .test_timeline import last_commit, shown

SHOP = """
import threading
ITEMS = [1]
LEVEL = 1
COUNT = 0
lock = threading.Lock()
class Till:
    def __init__(self): self.cash = 0
till = Till()
def add(item):
    global COUNT
    ITEMS.append(item)
    COUNT += 1
"""

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("place")


@pytest.fixture(scope="module")
def _shared_kernel(place: Path) -> Iterator[Kernel]:
    """The kernel that tests share here: one that was started where the modules are."""
    with start_kernel(cwd=place) as kernel:
        yield kernel


@pytest.fixture
def shop(place: Path) -> str:
    """A module of the user's that no test has imported."""
    name = f"shop{next(_numbers)}"
    (place / f"{name}.py").write_text(SHOP)
    return name


def test_data_that_a_module_changes_itself_is_undone_and_redone(kernel, shop):
    kernel.ok(f"import {shop} as shop")
    kernel.ok("shop.add(2)")
    commit = last_commit(kernel)
    assert (commit["added"], commit["changed"]) == ([f"{shop}.COUNT"], [f"{shop}.ITEMS"])
    kernel.ok("%undo")
    assert kernel.eval("shop.ITEMS, shop.COUNT") == "([1], 0)"
    kernel.ok("%redo")
    assert kernel.eval("shop.ITEMS, shop.COUNT") == "([1, 2], 1)"


def test_name_and_attribute_stay_one_object(kernel, shop):
    kernel.ok(f"import {shop} as shop\nfrom {shop} import ITEMS")
    kernel.ok("ITEMS.append(2)")
    assert last_commit(kernel)["changed"] == ["ITEMS", f"{shop}.ITEMS"]
    kernel.ok("ITEMS.sort(reverse=True)")
    for command, state in [("%undo 2", "[1]"), ("%redo", "[2, 1]"), ("%undo", "[1, 2]")]:
        kernel.ok(command)
        assert kernel.eval("ITEMS, shop.ITEMS is ITEMS") == f"({state}, True)"
    kernel.ok("shop.add(3)")
    assert kernel.eval("ITEMS") == "[1, 2, 3]"


def test_name_for_what_is_no_data_of_the_module_is_linked_with_it(kernel, place, shop):
    (place / f"{shop}.py").write_text("import fractions, queue\nbox = queue.SimpleQueue()\n")
    kernel.ok(f"import {shop} as shop")
    assert last_commit(kernel)["dropped"] == {}
    kernel.ok(f"from {shop} import box")
    assert set(last_commit(kernel)["dropped"]) == {"box", f"{shop}.box"}


def test_failed_cell_leaves_the_objects_of_a_module(kernel, shop):
    kernel.ok(f"import {shop} as shop\nfrom {shop} import ITEMS")
    kernel.ok("before = [id(shop.ITEMS), id(shop.till), id(shop.add)]")
    result = kernel.run(
        "%%transaction\nITEMS.append(2); shop.LEVEL = 2; shop.new = 1; shop.add = print\n"
        "shop.till.cash = 5; del shop.till\n1/0"
    )
    assert result.savepoint["transaction"]["unrestorable"] == {}
    assert kernel.eval("ITEMS, shop.LEVEL, shop.till.cash") == "([1], 1, 0)"
    assert kernel.eval("before == [id(shop.ITEMS), id(shop.till), id(shop.add)]") == "True"
    assert kernel.eval("shop.ITEMS is ITEMS, hasattr(shop, 'new')") == "(True, False)"
    kernel.ok("shop.add(2)")
    assert kernel.eval("ITEMS") == "[1, 2]"


def test_modules_that_share_an_object_go_on_sharing_it(kernel, place):
    package = place / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "one.py").write_text("SHARED = []")
    (package / "two.py").write_text("from .one import SHARED")
    kernel.ok("import package.one, package.two")
    kernel.ok("package.one.SHARED.append(1)")
    kernel.ok("%undo")
    kernel.ok("package.two.SHARED.append(2)")
    assert kernel.eval("package.one.SHARED") == "[2]"


def test_bindings_of_a_module_are_undone_and_redone(kernel, shop):
    kernel.ok(f"import {shop} as shop\ndef own(): return 'own'")
    kernel.ok("shop.LEVEL = 2; shop.add = own; shop.new = {}; del shop.COUNT; del shop.ITEMS")
    state = "shop.LEVEL, shop.add.__name__, sorted({'new', 'COUNT', 'ITEMS'} & set(dir(shop)))"
    kernel.ok("%undo")
    assert kernel.eval(state) == "(1, 'add', ['COUNT', 'ITEMS'])"
    kernel.ok("%redo")
    assert kernel.eval(state) == "(2, 'own', ['new'])"
    assert kernel.eval("shop.add is own") == "True"


def test_what_the_cell_binds_that_imports_the_module_is_undone(kernel, shop):
    kernel.ok(f"import {shop} as shop\nshop.LEVEL = 2")
    assert f"{shop}.LEVEL" in last_commit(kernel)["added"]
    kernel.ok("%undo")
    kernel.ok(f"import {shop} as shop")
    assert kernel.eval("shop.LEVEL") == "1"


def test_cell_that_reads_a_module_changes_nothing(kernel, shop):
    kernel.ok(f"import {shop} as shop")
    commit = last_commit(kernel)
    assert commit["added"] == ["shop", f"{shop}.ITEMS", f"{shop}.till"]
    assert commit["dropped"] == {}
    kernel.ok(
        "_q = shop.ITEMS[0] + shop.till.cash + shop.LEVEL\nfrom collections import OrderedDict"
    )
    assert last_commit(kernel)["changed"] == []
    assert last_commit(kernel)["added"] == ["_q", "OrderedDict"]


@pytest.mark.parametrize(
    "code",
    [
        "colors.extra = [1]; colors.rgb_to_hsv = len; del colors.rgb_to_hls",
        "setattr(colors, 'extra', [1]); setattr(colors, 'rgb_to_hsv', len)\n"
        "delattr(colors, 'rgb_to_hls')",
        "for n, v in {'extra': [1], 'rgb_to_hsv': len}.items(): setattr(colors, n, v)\n"
        "del colors.rgb_to_hls",
        "def f():\n    import colorsys as j\n    j.extra, j.rgb_to_hsv = [1], len\n"
        "    del j.rgb_to_hls\nf()",
        "import os as _os, colorsys as _j\n_j.extra = [1]; _j.rgb_to_hsv = len\ndel _j.rgb_to_hls",
    ],
)
def test_what_cells_assign_to_a_library_is_undone_and_redone(kernel, code):
    kernel.ok("import colorsys as colors")
    state = "getattr(colors, 'extra', 0), colors.rgb_to_hsv.__name__, hasattr(colors, 'rgb_to_hls')"
    kernel.ok(code)
    assert {"colorsys.extra", "colorsys.rgb_to_hsv", "colorsys.rgb_to_hls"} <= set(
        last_commit(kernel)["added"]
    )
    kernel.ok("colors.extra.append(2)")
    kernel.ok("%undo 2")
    assert kernel.eval(state) == "(0, 'rgb_to_hsv', True)"
    kernel.ok("%redo")
    assert kernel.eval(state) == "([1, 2], 'len', False)"
    kernel.ok("%undo 2")
    assert kernel.eval(state) == "(0, 'rgb_to_hsv', True)"


def test_attribute_that_cannot_be_saved_costs_only_itself(kernel, shop):
    kernel.ok(f"import {shop} as shop")
    kernel.ok("shop.made = (i for i in 'ab'); shop.LEVEL = 2; shop.ITEMS.append(2)")
    assert list(last_commit(kernel)["dropped"]) == [f"{shop}.made"]
    kernel.ok("1 + 1")
    assert last_commit(kernel)["changed"] == []
    kernel.ok("made = shop.made")
    kernel.ok("shop.made = None; shop.LEVEL = 3; shop.ITEMS.append(3)")
    kernel.ok("%undo")
    assert kernel.eval("shop.made is made, shop.LEVEL, shop.ITEMS") == "(True, 2, [1, 2])"


def test_attribute_is_restored_by_name(kernel, shop):
    kernel.ok(f"import {shop} as shop")
    number = last_commit(kernel)["number"]
    kernel.ok("shop.ITEMS.append(2); shop.till.cash = 5")
    kernel.ok(f"%restore {number} {shop}.ITEMS")
    assert kernel.eval("shop.ITEMS, shop.till.cash") == "([1], 5)"


def test_undo_of_an_import_leaves_the_module(kernel, shop):
    kernel.ok("x = 1")
    kernel.ok(f"import {shop} as shop")
    assert f"{shop}.ITEMS" not in shown(kernel, "%undo")
    kernel.ok(f"import {shop} as shop\nshop.add(2)")
    kernel.ok("shop.add(3)")
    kernel.ok("%undo")
    assert kernel.eval("shop.ITEMS") == "[1, 2]"


def test_reload_is_an_import(kernel, place, shop):
    kernel.ok(f"import importlib, {shop} as shop")
    kernel.ok("shop.LEVEL = 9; shop.ITEMS.append(2)")
    (place / f"{shop}.py").write_text(SHOP.replace("LEVEL = 1", "LEVEL = 22"))
    kernel.ok("importlib.reload(shop)")
    assert f"{shop}.ITEMS" in last_commit(kernel)["changed"]
    kernel.ok("shop.LEVEL = 3")
    kernel.ok("%undo")
    assert kernel.eval("shop.LEVEL, shop.ITEMS") == "(22, [1])"
    kernel.ok("%undo")
    assert kernel.eval("shop.LEVEL, shop.ITEMS") == "(9, [1, 2])"


def test_module_the_user_made_is_undone_and_rolled_back(kernel):
    kernel.ok("import types\nmade = types.ModuleType('made'); made.x = [1]")
    kernel.ok("exec('def f(): x.append(3)', vars(made))\nbefore = id(made), id(made.x)")
    kernel.ok("made.x.append(2); made.y = 1")
    state = "made.x, hasattr(made, 'y'), before == (id(made), id(made.x))"
    kernel.ok("%undo")
    assert kernel.eval(state) == "([1], False, True)"
    kernel.run("%%transaction\nmade.x.append(2); made.y = 1\n1/0")
    assert kernel.eval(state) == "([1], False, True)"
    kernel.ok("made.f()")
    assert kernel.eval(state) == "([1, 3], False, True)"


def test_module_the_user_made_can_be_imported_and_undone(kernel):
    kernel.ok("import sys, types\nmade = sys.modules['made'] = types.ModuleType('made')")
    kernel.ok("made.x = [1]; made.y = 1")
    kernel.ok("import made\nmade.x.append(2); made.y = 2")
    kernel.ok("%undo")
    assert kernel.eval("made.x, made.y, sys.modules['made'] is made") == "([1], 1, True)"
    kernel.ok("del sys.modules['made']")


# -- functions whose globals are a dict of their own


def test_functions_of_run_share_their_globals_after_an_undo(kernel, place, shop):
    (place / f"{shop}.py").write_text(SHOP.replace("lock", "# lock"))
    kernel.ok(f"%run {shop}.py")
    kernel.ok("add(2)")
    assert {"ITEMS", "add"} <= set(last_commit(kernel)["changed"])
    kernel.ok("%undo")
    kernel.ok("add(3)")
    assert kernel.eval("ITEMS, add.__globals__['COUNT']") == "([1, 3], 1)"


def test_functions_of_exec_share_their_globals_after_an_undo(kernel):
    kernel.ok("space = {'log': []}\nexec('def f(): log.append(1)\\ndef g(): return log', space)")
    kernel.ok("f, g, log = space['f'], space['g'], space['log']\ndel space")
    kernel.ok("f()")
    assert set(last_commit(kernel)["changed"]) == {"f", "g", "log"}
    kernel.ok("%undo")
    kernel.ok("f()")
    assert kernel.eval("g() is log, log") == "(True, [1])"


def test_functions_made_apart_are_not_linked(kernel):
    kernel.ok("a, b = {}, {}\nexec('def f(): return n', a)\nexec('def f(): return n', b)")
    kernel.ok("a['n'] = b['n'] = 1; f, g = a['f'], b['f']; del a, b")
    kernel.ok("f.__globals__['n'] = 2")
    assert "g" not in last_commit(kernel)["changed"]


# -- in another process


def session(name: str, cwd: Path) -> Any:
    options = (f"--Savepoints.session={name}", "--Savepoints.durability=sync")
    return start_kernel(*options, cwd=cwd)


def test_state_of_modules_comes_back_in_a_new_process(place, shop):
    with session(shop, place) as kernel:
        kernel.ok(f"from {shop} import ITEMS, add\nimport colorsys, {shop} as shop\nshop.LEVEL = 2")
        kernel.ok("add(2); shop.till.cash = 5; del shop.lock; colorsys.extra = 1")
        kernel.ok("done = 1")  # before it begins, all earlier ones are on disk
    with session(shop, place) as kernel:
        assert shown(kernel, "%restore").count("not as it was") == 0
        state = (
            "ITEMS, shop.COUNT, shop.LEVEL, shop.till.cash, hasattr(shop, 'lock'), colorsys.extra"
        )
        assert kernel.eval(state) == "([1, 2], 1, 2, 5, False, 1)"
        kernel.ok("add(3)")
        assert kernel.eval("ITEMS, shop.ITEMS is ITEMS") == "([1, 2, 3], True)"
        kernel.ok("%undo")
        assert kernel.eval("ITEMS, shop.ITEMS is ITEMS") == "([1, 2], True)"
        assert kernel.eval("type(shop.till) is shop.Till") == "True"


def test_functions_of_run_share_their_globals_in_a_new_process(place, shop):
    (place / f"{shop}.py").write_text("ITEMS = [1]\ndef add(item): ITEMS.append(item)\n")
    with session(shop, place) as kernel:
        kernel.ok(f"%run {shop}.py")
        kernel.ok("add(2)")
        kernel.ok("done = 1")
    with session(shop, place) as kernel:
        kernel.ok("%restore")
        kernel.ok("add(3)")
        assert kernel.eval("ITEMS") == "[1, 2, 3]"


def test_edited_file_counts_where_no_cell_changed_the_data(place, shop):
    source = "CHANGED = {'a': 1}\nKEPT = {'a': 1}\nLEVEL = 1\nSET = 1\n"
    (place / f"{shop}.py").write_text(source)
    with session(shop, place) as kernel:
        kernel.ok(f"import {shop} as shop")
        kernel.ok("shop.CHANGED['b'] = 2; shop.SET = 5; x = 1")
        kernel.ok("done = 1")
    (place / f"{shop}.py").write_text(source.replace("1", "7"))
    with session(shop, place) as kernel:
        report = shown(kernel, "%restore")
        assert f"{shop}.KEPT" in report
        assert f"{shop}.CHANGED" not in report.partition("not as it was")[2]
        state = "shop.CHANGED, shop.KEPT, shop.LEVEL, shop.SET, x"
        there = "({'a': 1, 'b': 2}, {'a': 7}, 7, 5, 1)"
        assert kernel.eval(state) == there
        kernel.ok("shop.KEPT['a'] = 8")
        kernel.ok("%undo")
        assert kernel.eval(state) == there


def test_module_that_is_gone_is_named_and_all_else_restored(place, shop):
    with session(shop, place) as kernel:
        kernel.ok(f"from {shop} import ITEMS\nx = 1")
        kernel.ok("ITEMS.append(2)")
        kernel.ok("done = 1")
    (place / f"{shop}.py").unlink()
    with session(shop, place) as kernel:
        report = shown(kernel, "%restore")
        assert f"{shop} can't be imported: ModuleNotFoundError" in report
        assert kernel.eval("ITEMS, x") == "([1, 2], 1)"


def test_module_on_a_path_of_the_session_is_found_again(place, tmp_path, shop):
    (tmp_path / f"{shop}_far.py").write_text("ITEMS = [1]")
    with session(shop, place) as kernel:
        kernel.ok(f"import sys\nsys.path.insert(0, {str(tmp_path)!r})")
        kernel.ok(f"from {shop}_far import ITEMS")
        kernel.ok("ITEMS.append(2)")
        kernel.ok("done = 1")
    with session(shop, place) as kernel:
        kernel.ok("%restore")
        assert kernel.eval(f"ITEMS, sys.modules['{shop}_far'].ITEMS is ITEMS") == "([1, 2], True)"


# -- which modules are watched, without a kernel


@pytest.fixture
def importing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """Makes a module with a list in a folder, and imports it."""
    before = set(sys.modules)

    def make(folder: str) -> types.ModuleType:
        name = f"watched{next(_numbers)}"
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / f"{name}.py").write_text("ITEMS = []\nfrom json import JSONDecoder\n")
        monkeypatch.syspath_prepend(str(tmp_path / folder))
        return importlib.import_module(name)

    yield make
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_modules_below_the_start_directory_are_watched(importing, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    importing("src")  # and its path
    modules = ModuleAttributes({})
    before = modules.read()
    module = importing("src")
    assert modules.read() == {**before, f"{module.__name__}.ITEMS": []}
    assert before.keys() == {name for name in before if name.startswith("watched")}


def test_installed_modules_are_not_watched(importing, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    modules = ModuleAttributes({})
    importing(".venv/lib/python3/site-packages")
    assert modules.read() == {}


def test_modules_elsewhere_are_watched_if_the_session_put_them_on_the_path(
    importing, tmp_path, monkeypatch
):
    importing("known")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    modules = ModuleAttributes({})
    assert modules.read() == {}
    importing("known")
    assert modules.read() == {}
    module = importing("new")
    assert modules.read() == {f"{module.__name__}.ITEMS": []}


def test_values_that_raise_when_asked_are_no_obstacle(importing, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importing("src")
    module.dead = weakref.proxy(set())
    modules = ModuleAttributes({"dead": module.dead, "module": module})
    modules.note_code(compile("dead.x = module.x = 1", "<cell>", "exec"))
    assert modules.read().keys() == {f"{module.__name__}.ITEMS", f"{module.__name__}.dead"}


def test_module_imported_anew_is_another_one(importing, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    modules = ModuleAttributes({})
    name = importing("src").__name__
    modules.read()
    del sys.modules[name]
    assert modules.read() == {}
    again = importlib.import_module(name)
    assert modules.read()[f"{name}.ITEMS"] is again.ITEMS


def test_assigned_attributes_are_those_that_dis_shows():
    waiting = [
        compile(Path(module.__file__).read_text(), module.__file__, "exec")
        for module in (subprocess, json.decoder, dis, types)
        if module.__file__
    ]
    compared = 0
    for code in waiting:  # grows
        waiting += [const for const in code.co_consts if isinstance(const, types.CodeType)]
        steps = [step for step in dis.get_instructions(code) if step.opname != "CACHE"]
        imports = any(step.opname == "IMPORT_NAME" for step in steps)
        assigned = {
            step.argval
            for before, step in itertools.pairwise(
                step for step in steps if step.opname != "EXTENDED_ARG"
            )
            if step.opname in {"STORE_ATTR", "DELETE_ATTR"}
            and (imports or not before.opname.startswith("LOAD_FAST"))
        }
        if not {"setattr", "delattr"} & {*code.co_names}:
            assert assigned_attributes(code) == assigned
            compared += len(assigned)
    assert compared > 10
