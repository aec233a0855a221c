"""Commits, and the ways back: magics, API and control requests, on a real kernel."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
from pathlib import Path

import pytest

from savepoint_kernel.exceptions import QuotaExceeded
from savepoint_kernel.history.table import TableWriter, read
from savepoint_kernel.state.imager import Dropped, Group

from .harness import Kernel, Message, go_back, start_kernel


def ask(kernel: Kernel, what: str, **content: object) -> Message:
    """Send a control request; returns the content of its reply."""
    msg_id = kernel.send(f"savepoint_{what}_request", content, channel="control")
    return kernel.reply(msg_id, channel="control")["content"]


def commits(kernel: Kernel) -> list[Message]:
    reply = ask(kernel, "timeline", settled=True)
    assert reply["status"] == "ok", reply
    return reply["commits"]


def last_commit(kernel: Kernel) -> Message:
    return commits(kernel)[-1]


def shown(kernel: Kernel, code: str) -> str:
    """Run a magic; returns what it displays as text."""
    result = kernel.ok(code)
    return "\n".join(m["content"]["data"]["text/plain"] for m in result.of("display_data"))


def usage_error(kernel: Kernel, code: str) -> str:
    result = kernel.run(code)
    assert result.content["ename"] == "UsageError", result.content
    return result.content["evalue"]


def test_commit_says_what_the_cell_changed(own_kernel):
    own_kernel.ok("old = [1]; gone = 2")
    reply = own_kernel.ok("new = 1\nold.append(2)\ndel gone").reply
    commit = last_commit(own_kernel)
    assert (commit["added"], commit["changed"], commit["removed"]) == (["new"], ["old"], ["gone"])
    assert commit["number"] == reply["metadata"]["savepoint"]["commit"]
    assert commit["cell"]["text"].startswith("new = 1")
    assert commit["verified"] == "touched"


def test_change_through_another_name_is_seen(kernel):
    kernel.ok("a = [[]]; b = a[0]; c = 1")
    kernel.ok("b.append(1)")
    assert set(last_commit(kernel)["changed"]) == {"a", "b"}


@pytest.mark.parametrize(
    ("setup", "code"),
    {
        "function": ("x = []\ndef f(): x.append(1)", "f()"),
        "function of a function": ("x = []\ndef g(): x.append(1)\ndef f(): g()", "f()"),
        "default": ("x = []\ndef f(q=x): q.append(1)", "f()"),
        "closure": ("x = []\ndef make(q):\n    return lambda: q.append(1)\nf = make(x)", "f()"),
        "method": (
            "x = []\nclass C:\n    def m(self): x.append(1)\no = C()",
            "o.m()",
        ),
        "property": (
            "x = []\nclass C:\n    @property\n    def p(self): x.append(1)\no = C()",
            "o.p",
        ),
        "instance in a list": (
            "x = []\nclass C:\n    def __init__(self): self.v = x\nl = [C()]",
            "l[0].v.append(1)",
        ),
        "class body": ("x = []", "class D:\n    x.append(1)"),
        "globals": ("x = []", "globals().get('x').append(1)"),
        "exec": ("x = []", "exec('x.append(1)')"),
        "vars": ("x = []", "vars()['x'].append(1)"),
        "frame": ("x = []", "import sys\nsys._getframe().f_globals['x'].append(1)"),
        "shell": ("x = []", "get_ipython().user_ns['x'].append(1)"),
        "main": ("x = []", "import __main__\n__main__.x.append(1)"),
        "magic": ("x = []", "%time x.append(1)"),
        "cell magic": ("x = []", "%%time\nx.append(1)"),
        "comprehension": ("x = []", "[x.append(i) for i in range(2)]"),
        "output": ("x = []\nx", "_.append(1)"),
        "thread": (
            "x = []\nimport threading\ngo = threading.Event(); done = threading.Event()\n"
            "def work():\n    go.wait(); x.append(1); done.set(); stop.wait(1)\n"
            "stop = threading.Event()\nthreading.Thread(target=work, daemon=True).start()",
            "go.set(); done.wait()",
        ),
        "dict": ("x = {}", "x['k'] = 1"),
        "set": ("x = set()", "x.add(1)"),
        "deque": ("from collections import deque\nx = deque()", "x.append(1)"),
        "bytearray": ("x = bytearray(2)", "x[0] = 1"),
        "array.array": ("import array\nx = array.array('d', [0])", "x[0] = 1"),
        "slots": ("class S:\n    __slots__ = ('v',)\nx = S()", "x.v = 1"),
        "dataclass": (
            "from dataclasses import dataclass\n@dataclass\nclass P:\n    v: int\nx = P(0)",
            "x.v = 1",
        ),
        "attrs": ("import attrs\n@attrs.define\nclass P:\n    v: list\nx = P([])", "x.v.append(1)"),
        "attrs with a dict": (
            "import attr\n@attr.s(auto_attribs=True)\nclass P:\n    v: int = attr.Factory(int)\n"
            "x = P()",
            "x.v += 1",
        ),
        "named tuple": (
            "from typing import NamedTuple\nclass P(NamedTuple):\n    v: list\nx = P([])",
            "x.v.append(1)",
        ),
        "enum": ("import enum\nclass E(enum.Enum):\n    A = 1\nx = E.A; x.v = 1", "E.A.v = 2"),
        "ordered dict": ("import collections\nx = collections.OrderedDict(a=1)", "x['b'] = 2"),
        "numpy": ("import numpy as np\nx = np.zeros(3)", "x[0] = 1"),
        "numpy view": ("import numpy as np\nx = np.zeros(3)\nv = x[1:]", "v[0] = 1"),
        "numpy out": ("import numpy as np\nx = np.zeros(3)", "np.add(x, 1, out=x)"),
        "pandas column": ("import pandas as pd\nx = pd.DataFrame({'a': [1]})", "x['b'] = 2"),
        "pandas iloc": ("import pandas as pd\nx = pd.DataFrame({'a': [1]})", "x.iloc[0, 0] = 2"),
        "pandas inplace": (
            "import pandas as pd\nx = pd.DataFrame({'a': [1]})",
            "x.rename(columns={'a': 'b'}, inplace=True)",
        ),
    }.values(),
    ids=lambda value: None,
)
def test_change_is_detected_and_undone(kernel, setup, code):
    # Its text and, for what has none, its attribute.
    state = "(str(x).partition(' object at')[0], getattr(x, 'v', None))"
    kernel.ok(setup)
    before = kernel.eval(state)
    kernel.ok(code)
    after = kernel.eval(state)
    assert after != before
    assert "x" in last_commit(kernel)["changed"]
    kernel.ok("%undo")
    assert kernel.eval(state) == before
    kernel.ok("%redo")
    assert kernel.eval(state) == after


def test_class_of_attrs_is_saved_without_the_namespace_it_copies(own_kernel):
    own_kernel.ok("import attrs\nlarge = bytes(1_000_000); helper = [1]")
    own_kernel.ok(
        "@attrs.define\nclass P:\n    v: list = attrs.field(factory=list)\n"
        "    w: int = attrs.field(default=3, converter=int)\n"
        "    def sum(self): return self.w + len(self.v) + helper[0]\n"
        "p = P([1])"
    )
    commit = last_commit(own_kernel)
    assert (commit["dropped"], commit["stored_bytes"] < 50_000) == ({}, True)
    own_kernel.ok("helper[0] = 1")
    own_kernel.ok("helper.append(2); del helper[1]; large = b''")
    assert last_commit(own_kernel)["changed"] == ["large"]
    own_kernel.ok("del p, P")
    own_kernel.ok("%undo")
    assert own_kernel.eval("p, p.sum(), P(w='4').sum(), p == P([1])") == (
        "(P(v=[1], w=3), 5, 5, True)"
    )


def test_cell_that_reads_changes_nothing(kernel):
    kernel.ok("import numpy as np\nx = np.zeros(3); y = {'a': [1]}; z = 'text'")
    kernel.ok("for key in y: _q = x.sum() + len(z)")
    assert last_commit(kernel)["changed"] == []


def test_independent_values_are_not_linked(kernel):
    kernel.ok(
        "import numpy as np\na = np.zeros(3); b = np.zeros(3); c = {'key': 1}; d = {'key': 2}"
    )
    kernel.ok("a[0] = 1; c['key'] = 3")
    assert last_commit(kernel)["changed"] == ["a", "c"]


def test_undo_skips_cells_that_only_looked(kernel):
    kernel.ok("x = 1")
    kernel.ok("x = 2")
    kernel.ok("x")
    kernel.ok("print(x)")
    assert "x = 2" not in shown(kernel, "%undo")
    assert kernel.ok("x").value == "1"


@pytest.mark.parametrize(
    "cells",
    [
        ["x = 1", "x = 2", "1/0"],
        ["x = 1", "x = 2", "x, x", "_"],
        ["class P: v = 1\np = P(); x = 1", "P.v = 10; x = 2"],
        ["import threading\nclass M: lock = threading.Lock()\nm = M()", "x = 1", "m.w = 2"],
        ["x = 1\nclass Exits:\n    def __reduce__(self): raise SystemExit", "x = Exits()"],
        ["import weakref\nclass W: pass\nw = W(); p = weakref.proxy(w); x = 1", "del w", "x = 2"],
        [
            "import sys\nx = 1; sys.setrecursionlimit(10**5); l = []",
            "for x in range(99000): l = [l]",
        ],
    ],
    ids=["error", "display", "class", "unsaved", "exit", "proxy", "depth"],
)
def test_undo_goes_back_one_cell_whatever_it_was(own_kernel, cells):
    for cell in cells:
        own_kernel.run(cell)
    own_kernel.ok("%undo")
    assert own_kernel.eval("x") == "1"


def test_figure_that_pickles_otherwise_each_time_is_no_change(own_kernel):
    own_kernel.ok("import matplotlib; matplotlib.use('agg')\nimport matplotlib.pyplot as plt")
    own_kernel.ok("figure, axes = plt.subplots(); axes.plot([1, 2, 3]); x = 1")
    own_kernel.ok("x = 2")
    own_kernel.ok("%undo")
    assert own_kernel.eval("x") == "1"


def test_undo_of_many_cells_redo_and_nothing_left(kernel):
    for value in range(4):
        kernel.ok(f"x = {value}")
    kernel.ok("%undo 3")
    assert kernel.eval("x") == "0"
    kernel.ok("%redo")
    assert kernel.eval("x") == "3"
    assert "nothing to redo" in usage_error(kernel, "%redo")
    assert "no 10000 cells" in usage_error(kernel, "%undo 10000")
    assert kernel.eval("x") == "3"


def test_sharing_survives_undo(kernel):
    kernel.ok("import numpy as np\nx = [1]; y = {'x': x}; a = np.zeros(4); v = a[1:3]")
    kernel.ok("x.append(2); a[1] = 5")
    kernel.ok("%undo")
    assert kernel.eval("(x, y['x'] is x, a.tolist(), np.shares_memory(a, v))") == (
        "([1], True, [0.0, 0.0, 0.0, 0.0], True)"
    )
    kernel.ok("v[0] = 7; x.append(8)")
    assert kernel.eval("(a[1] == 7, y)") in ("(True, {'x': [1, 8]})", "(np.True_, {'x': [1, 8]})")


def test_function_calls_the_live_namespace_after_undo(kernel):
    kernel.ok("n = 1\ndef f(): return n")
    kernel.ok("def f(): return 'other'")
    kernel.ok("%undo")
    kernel.ok("n = 5")
    assert kernel.eval("f()") == "5"
    assert "return n" in kernel.ok("%source f").text()


def test_timeline_lists_cells_in_text_and_html(kernel):
    kernel.ok("tracked = 1")
    result = kernel.ok("%timeline 5")
    (display,) = result.of("display_data")
    assert "tracked = 1" in display["content"]["data"]["text/plain"]
    assert "<td>+tracked</td>" in display["content"]["data"]["text/html"]


def test_checkpoint_diff_and_restore(kernel):
    kernel.ok("x = 1; y = [1, 2]; z = 'kept'")
    assert "Checkpoint 'start'" in kernel.ok("%checkpoint start -m the beginning").text()
    kernel.ok("x = 2; y.append(3); w = 4")
    difference = shown(kernel, "%diff start").splitlines()
    assert [line.split() for line in difference[1:]] == [
        ["w", "4"],
        ["x", "1", "2"],
        ["y", "[1,", "2]", "[1,", "2,", "3]"],
    ]
    kernel.ok("%restore start y")
    assert kernel.eval("(x, y, w)") == "(2, [1, 2], 4)"
    kernel.ok("%restore start")
    assert kernel.eval("(x, y, z, 'w' in globals())") == "(1, [1, 2], 'kept', False)"


def test_unknown_checkpoint_lists_those_there_are(kernel):
    kernel.ok("x = 1")
    kernel.ok("%checkpoint known")
    error = usage_error(kernel, "%restore unknown")
    assert "'unknown'" in error
    assert "known" in error
    assert "has no nothing" in usage_error(kernel, "%restore known nothing")


def test_work_after_undo_goes_on_a_branch(kernel):
    kernel.ok("x = 'first'")
    kernel.ok("%branch base")
    kernel.ok("x = 'main'")
    kernel.ok("%undo")
    kernel.ok("x = 'other'")
    branches = ask(kernel, "timeline", settled=True)["branches"]
    (other,) = (name for name in branches if name.startswith("base~"))
    kernel.ok("%branch base")
    assert kernel.eval("x") == "'main'"
    kernel.ok(f"%branch {other}")
    assert kernel.eval("x") == "'other'"


def test_what_cannot_be_saved_is_named_and_stays_usable(kernel):
    kernel.ok("import threading\nlock = threading.Lock(); x = 1")
    assert "lock" in last_commit(kernel)["dropped"]
    assert "lock: _thread.lock" in kernel.ok("%refs").text()
    kernel.ok("x = 2")
    kernel.ok("%undo")
    assert kernel.eval("(x, lock.acquire(False))") == "(1, True)"


def test_lost_value_explains_itself(kernel):
    kernel.ok("x = 1; gen = (i for i in range(3))")
    kernel.ok("del gen; import gc; del gc")
    assert "not as it was: gen" in shown(kernel, "%undo")
    assert "gen was not saved: a builtins.generator" in kernel.eval("gen")
    result = kernel.run("next(gen)")
    assert result.content["ename"] == "DroppedReferenceError"
    assert "gen was a builtins.generator" in result.content["evalue"]


def test_value_whose_pickling_fails_keeps_no_other_from_being_saved(kernel):
    kernel.ok(
        "class Bad:\n    def __reduce_ex__(self, protocol): raise RuntimeError('never')\n"
        "shared = []; bad = [Bad(), shared]; good = [shared]"
    )
    commit = last_commit(kernel)
    assert "RuntimeError: never" in commit["dropped"]["bad"]
    assert "good" not in commit["dropped"]
    kernel.ok("shared.append(1)")
    kernel.ok("%undo")
    assert kernel.eval("(good, good[0] is shared)") == "([[]], True)"


def test_interrupt_ends_a_value_that_is_saved_for_ever(own_kernel):
    own_kernel.ok(
        "import time\nclass Slow:\n    def __reduce__(self):\n"
        "        if slow: print('saving', flush=True); time.sleep(100)\n"
        "        return Slow, ()\n"
        "slow = False"
    )
    cell = own_kernel.start("endless = Slow(); slow = True; x = 1")
    own_kernel.reply(cell)
    own_kernel.stream(cell, "saving")
    for _ in range(100):  # what comes within half a second was meant for the cell
        own_kernel.interrupt()
        try:
            own_kernel.wait(
                "iopub", lambda m: "endless was being saved" in m["content"].get("text", ""), 0.1
            )
            break
        except AssertionError:
            continue
    own_kernel.ok("del endless; slow = False")
    assert last_commit(own_kernel)["added"] == ["x"]


def test_process_state_goes_along(kernel, tmp_path):
    kernel.ok("import os, random, numpy as np, warnings")
    before = kernel.eval("(os.getcwd(), random.getstate()[1][:3], len(warnings.filters))")
    kernel.ok(
        f"os.chdir({str(tmp_path)!r}); random.seed(1); os.environ['NEW'] = '1'\n"
        "warnings.simplefilter('ignore')"
    )
    kernel.ok("%undo")
    assert kernel.eval("(os.getcwd(), random.getstate()[1][:3], len(warnings.filters))") == before
    assert kernel.eval("'NEW' in os.environ") == "False"


def test_what_a_cell_leaves_is_committed_beside_a_completion(own_kernel):
    own_kernel.ok("x = 1")
    own_kernel.ok(
        "import sys, threading\nfrom savepoint_kernel.activity import COMPLETIONS\n"
        "COMPLETIONS.__enter__(); threading.Timer(0.2, COMPLETIONS.__exit__).start()\n"
        "sys.path.append('/added')"
    )
    own_kernel.ok("x = 2; sys.path.append('/more')")
    own_kernel.ok("%undo")
    assert own_kernel.eval("x, sys.path[-1]") == "(1, '/added')"


def test_commit_after_an_undo_has_the_process_as_it_is_then(kernel, tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    kernel.ok("import os")
    kernel.ok(f"os.chdir({str(here)!r})")
    kernel.ok(f"os.chdir({str(there)!r})")
    kernel.ok("%undo")
    number = kernel.ok("x = 1").savepoint["commit"]
    kernel.ok(f"os.chdir({str(there)!r})")
    kernel.ok(f"%restore {number}")
    assert kernel.eval("os.getcwd()") == repr(str(here))


PARTICIPANT = """
from savepoint_kernel import api as savepoint
import builtins, numpy as np
class Level:
    name = "level"
    def capture(self): return token(builtins.level)
    def restore(self, token): builtins.level = int(level_of(token))
builtins.level = 1
savepoint.register(Level())
"""


def test_participant_with_an_array_for_a_token_is_restored(own_kernel):
    own_kernel.ok("token = lambda n: Token(np.array([n]))")
    own_kernel.ok(
        "class Token:\n    def __init__(self, v): self.v = v\n"
        "    def __eq__(self, other): return bool((self.v == other.v).all())\n"
        "level_of = lambda token: token.v[0]" + PARTICIPANT
    )
    own_kernel.ok("builtins.level = 1")
    own_kernel.ok("builtins.level = 2")
    own_kernel.ok("%undo")
    assert own_kernel.eval("level") == "1"


def test_participant_whose_token_cannot_be_saved_is_named(own_kernel):
    own_kernel.ok("token = lambda n: (n, iter([]).__class__, (i for i in ()))" + PARTICIPANT)
    own_kernel.ok("builtins.level = 2")
    assert "not as it was: level" in shown(own_kernel, "%undo")


def test_clear_is_undone(kernel):
    kernel.ok("x = 1; _hidden = 2\ndef f(): pass")
    kernel.ok("x", store_history=True)
    assert kernel.ok("%clear").text() == "Names deleted: 3; %undo brings them back\n"
    assert kernel.eval("{'x', 'f', '_hidden'} & {*globals()}") == "set()"
    assert kernel.eval("_, '_i' in globals()") == "(1, True)"
    assert kernel.ok("%clear").text() == "There was nothing to delete.\n"
    kernel.ok("%undo")
    assert kernel.eval("x, _hidden") == "(1, 2)"


IMPORTING = """
import math, os.path, collections.abc as abc
from math import inf, pi
from fnmatch import *
from os import environ
from random import randint, random
from typing import List
%time import string
def load():
    import csv
    global json
    import json
load()
if math: from numpy import exp, e as euler
"""
IMPORTED = """
    List abc environ euler exp filter fnmatch fnmatchcase json math os pi randint random string
    translate
"""

NOT_IMPORTED = """
show = print; kind = type(3); table = [math, pi]
inf = 3; List = List
squares = [pi for pi in range(3)]
def local(): from shutil import copy as table
class Local: from shutil import copy as kind
"""


def test_clear_keeps_what_cells_imported_and_what_only_its_value_tells():
    session = "--Savepoints.session=imports"
    names = "print(*get_ipython().run_line_magic('who_ls', ''))"
    imported = {*IMPORTED.split(), "Decimal", "Fraction"}
    with start_kernel(session) as kernel:
        kernel.ok(IMPORTING)
        kernel.ok("%%time\nfrom fractions import Fraction")
        kernel.ok(NOT_IMPORTED)
        kernel.ok("exec('from decimal import Decimal; from time import timezone')")
        kernel.ok("%clear --keep-imports")
        assert {*kernel.ok(names).text().split()} == imported
        kernel.ok("%undo")
        kernel.client.shutdown()
        kernel.manager.provisioner.process.wait(30)
    with start_kernel(session) as kernel:
        kernel.ok("%restore")
        kernel.ok("from math import tau\n%clear --keep-imports")
        assert {*kernel.ok(names).text().split()} == imported | {"tau"}


def test_api_does_what_the_magics_do(kernel):
    kernel.ok("from savepoint_kernel import api as savepoint\nx = 1")
    kernel.ok("mark = savepoint.checkpoint('api-mark').number")
    kernel.ok("x = 2")
    kernel.ok("restored = savepoint.restore('api-mark'); del restored")
    assert kernel.eval("x") == "1"
    kernel.ok("import threading\nlock = threading.Lock()")
    result = kernel.run("savepoint.checkpoint('strict')")
    assert result.content["ename"] == "UnrestorableState"
    assert "lock" in result.content["evalue"]


def test_requests_restore_between_cells(kernel):
    kernel.ok("x = 1")
    assert ask(kernel, "checkpoint", name="by-request")["status"] == "ok"
    kernel.ok("x = 2")
    assert "x" in ask(kernel, "restore", commit="by-request")["changed"]
    assert kernel.eval("x") == "1"
    kernel.ok("x = 3")
    assert ask(kernel, "restore", undo=1)["status"] == "ok"
    assert kernel.eval("x") == "1"
    assert ask(kernel, "restore", redo=True)["status"] == "ok"
    assert kernel.eval("x") == "3"
    reply = ask(kernel, "restore", commit="no such")
    assert (reply["status"], reply["ename"]) == ("error", "CheckpointNotFound")


def test_status_and_timeline_are_answered_beside_a_cell_and_changes_wait(own_kernel, gate):
    own_kernel.ok("x = 1")
    cell = own_kernel.start(f"{gate.wait}; x = 2")
    own_kernel.wait("iopub", lambda m: m["msg_type"] == "execute_input")
    assert ask(own_kernel, "status")["available"]
    assert ask(own_kernel, "timeline")["commits"]
    waiting = own_kernel.send("savepoint_restore_request", {"undo": 1}, channel="control")
    assert ask(own_kernel, "status")["status"] == "ok"
    gate.open()
    own_kernel.finish(cell)
    assert own_kernel.reply(waiting, channel="control")["content"]["status"] == "ok"
    assert own_kernel.eval("x") == "1"


def test_what_leads_to_the_kernel_does_not_link_all_names(kernel):
    kernel.ok(
        "import asyncio, logging, sys\n"
        "class Holder:\n    def __init__(self, *held): self.held = held\n"
        "handler = logging.StreamHandler(sys.stderr); log = logging.getLogger('links')\n"
        "log.addHandler(handler); h = Holder(log); loop = Holder(asyncio.get_event_loop())\n"
        "ip = Holder(get_ipython()); out = Holder(sys.stdout, handler.stream); a = [1]\n"
        "b = {2: a}; log.removeHandler(handler)"
    )
    groups = "get_ipython().kernel.savepoints.timeline.groups"
    assert kernel.eval(f"[sorted(g.all_names) for g in {groups} if len(g.all_names) > 1]") == (
        "[['a', 'b']]"
    )


def test_state_of_a_library_set_in_the_cell_that_imports_it_is_committed(own_kernel):
    own_kernel.ok("import numpy as np; np.random.seed(3); np.set_printoptions(precision=2)")
    own_kernel.ok("drawn = np.random.rand()")
    own_kernel.ok("%undo")
    own_kernel.ok("again = np.random.rand(); np.random.seed(3); expected = np.random.rand()")
    assert (
        own_kernel.eval("(float(again) == float(expected), np.get_printoptions()['precision'])")
        == "(True, 2)"
    )


def test_container_that_holds_itself_does_so_after_an_undo(kernel):
    kernel.ok("x = []; x.append(x); y = {}; y['y'] = y")
    kernel.ok("x.append(1); y[1] = 1")
    kernel.ok("%undo")
    assert kernel.eval("(len(x), x[0] is x, len(y), y['y'] is y)") == "(1, True, 1, True)"


def test_configuration_file_of_ipykernel_holds(tmp_path):
    profile = tmp_path / "profile_default"
    profile.mkdir()
    (profile / "ipython_kernel_config.py").write_text("c.Savepoints.session = 'from-a-file'")
    with start_kernel(env={"IPYTHONDIR": str(tmp_path)}) as kernel:
        assert "from-a-file" in shown(kernel, "%savepoint status")


def test_session_comes_back_in_a_new_process():
    session = "--Savepoints.session=comes-back"
    with start_kernel(session) as kernel:
        kernel.ok("import numpy as np\nclass P:\n    def __init__(self): self.v = [1]")
        kernel.ok("p = P(); alias = p.v; a = np.arange(3)\ndef f(x):\n    return x + len(alias)")
        kernel.ok("p.v.append(2)")
        kernel.client.shutdown()
        kernel.manager.provisioner.process.wait(30)
    with start_kernel(session) as kernel:
        assert "p" in shown(kernel, "%restore")
        assert (
            kernel.eval("(p.v, p.v is alias, f(1), a.tolist())") == "([1, 2], True, 3, [0, 1, 2])"
        )
        assert "x + len(alias)" in kernel.ok("%source f").text()
        assert "self.v = [1]" in kernel.ok("%source P").text()
        kernel.ok("%undo")
        assert kernel.eval("p.v") == "[1]"
        kernel.client.shutdown()
        kernel.manager.provisioner.process.wait(30)
    with start_kernel(session, "--Savepoints.restore_on_start=True") as kernel:
        assert kernel.eval("p.v") == "[1]"


@pytest.mark.parametrize("seed", ["2", "3"])  # names are met in another order
def test_class_that_is_only_read_in_a_new_process_is_no_change(seed):
    session = "--Savepoints.session=read-only"
    with start_kernel(session, env={"PYTHONHASHSEED": "1"}) as kernel:
        for cell in ("def f(): return 1", "class C: x = 1", "c = C()"):
            kernel.ok(cell)
        kernel.client.shutdown()
        kernel.manager.provisioner.process.wait(30)
    with start_kernel(session, env={"PYTHONHASHSEED": seed}) as kernel:
        kernel.ok("%restore")
        assert kernel.ok("print(c.x)").text() == "1\n"
        assert not last_commit(kernel)["changed"]
        assert "deleted: c" in shown(kernel, "%undo")


@pytest.mark.parametrize("way", ["undo", "rollback", "another process"])
def test_attributes_of_arrays_come_back(way):
    setup = (
        "import numpy as np\nclass Measured(np.ndarray):\n"
        "    def __array_finalize__(self, obj): self.unit = getattr(obj, 'unit', None)\n"
        "u = np.arange(3.).view(Measured); u.unit = 'm'; u.log = [u.unit]; log = u.log\n"
        "get_ipython().held = u"
    )
    look = "(u.tolist(), vars(u), log is u.log)"
    session = f"--Savepoints.session=attributes, {way}"
    with start_kernel(session) as kernel:
        kernel.ok(setup)
        if way == "another process":
            kernel.client.shutdown()
            kernel.manager.provisioner.process.wait(30)
        else:
            go_back(kernel, "u[0] = 9; u.unit = 'km'; log.append(1); u.new = 1; v = u[1:]", way)
            assert kernel.eval("u is get_ipython().held") == "True"
            seen = kernel.eval(look)
    if way == "another process":
        with start_kernel(session) as kernel:
            kernel.ok("%restore")
            assert kernel.eval("(u * 2).unit") == "'m'"
            seen = kernel.eval(look)
    assert seen == "([0.0, 1.0, 2.0], {'unit': 'm', 'log': ['m']}, True)"


def test_module_from_a_path_the_session_added_is_found_again(tmp_path):
    session = "--Savepoints.session=with-path"
    (tmp_path / "of_the_session.py").write_text("class Thing:\n    value = 3\n")
    with start_kernel(session) as kernel:
        kernel.ok(f"import sys\nsys.path.append({str(tmp_path)!r})")
        kernel.ok("from of_the_session import Thing\nthing = Thing()")
        number = last_commit(kernel)["number"]
        kernel.client.shutdown()
        kernel.manager.provisioner.process.wait(30)
    with start_kernel(session) as kernel:
        kernel.ok(f"%restore {number} thing\nimport sys")
        assert kernel.eval(f"thing.value, {str(tmp_path)!r} in sys.path") == "(3, False)"
    with start_kernel(session) as kernel:
        kernel.ok(f"%restore {number}")
        assert kernel.eval("thing.value") == "3"


def test_killed_kernel_loses_nothing_it_had_on_disk():
    session = "--Savepoints.session=killed"
    with start_kernel(session, "--Savepoints.durability=sync") as kernel:
        kernel.ok("x = [1]")
        kernel.ok("x.append(2)")
        commits(kernel)
        os.kill(kernel.pid, signal.SIGKILL)
        kernel.manager.provisioner.process.wait(30)
    with start_kernel(session) as kernel:
        kernel.ok("%restore")
        assert kernel.eval("x") == "[1, 2]"


def test_terminated_kernel_writes_what_it_has():
    session = "--Savepoints.session=terminated"
    with start_kernel(session) as kernel:
        kernel.ok("x = 1")
        commits(kernel)
        os.kill(kernel.pid, signal.SIGTERM)
        status = kernel.manager.provisioner.process.wait(30)
        assert status == -signal.SIGTERM
    with start_kernel(session) as kernel:
        kernel.ok("%restore")
        assert kernel.eval("x") == "1"


def test_cell_that_terminates_its_kernel_goes_no_further(tmp_path):
    after = tmp_path / "after"
    with start_kernel() as kernel:
        kernel.send(
            "execute_request",
            {"code": f"import os; os.kill(os.getpid(), 15); open({str(after)!r}, 'w')"},
        )
        assert kernel.manager.provisioner.process.wait(30) == -signal.SIGTERM
    assert not after.exists()


def test_second_kernel_of_a_session_gets_a_store_of_its_own():
    session = "--Savepoints.session=shared"
    with start_kernel(session) as first:
        first.ok("x = 1")
        with start_kernel(session) as second:
            cell = second.ok("y = 2")
            stores = [ask(kernel, "status")["store"] for kernel in (first, second)]
            assert stores[0] != stores[1]
            assert cell.savepoint["commit"] is not None
        first.ok("%undo")


def test_session_of_a_kernel_that_ends_is_removed_unless_it_has_checkpoints():
    stores: list[Path] = []
    for code in ("x = 1", "%checkpoint kept"):
        with start_kernel() as kernel:
            kernel.ok(code)
            stores.append(Path(ask(kernel, "status")["store"]))
            kernel.client.shutdown()
            kernel.manager.provisioner.process.wait(30)
    assert [store.exists() for store in stores] == [False, True]


def test_collection_keeps_what_has_a_name_and_where_the_session_is(own_kernel):
    own_kernel.ok("import random\nx = random.randbytes(3_000_000)")
    own_kernel.ok("%checkpoint kept")
    for _ in range(3):
        own_kernel.ok("x = random.randbytes(3_000_000); digest = hash(x)")
    own_kernel.ok("y = 1")
    assert "MB freed" in own_kernel.ok("%savepoint gc").text()
    own_kernel.ok("x = 0")
    own_kernel.ok("%undo")
    assert own_kernel.eval("hash(x) == digest") == "True"
    own_kernel.ok("%restore kept")
    assert own_kernel.eval("(len(x), 'y' in globals())") == "(3000000, False)"


def test_session_over_its_quota_loses_its_oldest_states():
    with start_kernel("--Savepoints.quota=10000000") as kernel:
        kernel.ok("import random")
        results = [kernel.ok("x = random.randbytes(3_000_000); digest = hash(x)") for _ in range(6)]
        told = kernel.ok("y = 1").text("stderr") + "".join(r.text("stderr") for r in results)
        notices = [m for m in kernel._seen["iopub"] if m["msg_type"] == "stream"]
        told += "".join(m["content"]["text"] for m in notices)
        assert "oldest commits" in told
        kernel.ok("x = 0")
        kernel.ok("%undo")
        assert kernel.eval("hash(x) == digest") == "True"
        assert len(commits(kernel)) < 9


def test_switched_off_there_is_no_timeline():
    with start_kernel("--Savepoints.enabled=False") as kernel:
        result = kernel.ok("x = 1")
        assert result.savepoint["commit"] is None
        assert result.savepoint["transaction"]["outcome"] == "not_committed"
        assert "switched off" in usage_error(kernel, "%undo")
        assert ask(kernel, "status")["available"] is False
        result = kernel.run("x = 2", metadata={"savepoint": {"transaction": "rollback_always"}})
        assert "The cell was not run" in result.content["evalue"]
        assert kernel.eval("x") == "1"


def test_store_that_cannot_be_written_is_reported_and_cells_run(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with start_kernel(f"--Savepoints.directory={blocked}/below") as kernel:
        result = kernel.ok("x = 1")
        assert result.savepoint["commit"] is None
        assert "there is no timeline" in usage_error(kernel, "%undo")


def test_child_process_leaves_the_timeline_alone(own_kernel):
    own_kernel.ok("x = 1")
    own_kernel.ok("import os\npid = os.fork()\nif not pid: os._exit(0)\n_q = os.waitpid(pid, 0)")
    own_kernel.ok("x = 2")
    own_kernel.ok("%undo")
    assert own_kernel.eval("x") == "1"
    assert subprocess.run(["true"], check=True).returncode == 0


@pytest.mark.parametrize(
    ("setup", "looks"),
    {
        "figure": (
            "import matplotlib; matplotlib.use('agg')\nimport matplotlib.pyplot as plt\n"
            "fig, ax = plt.subplots(); ax.plot([1, 2])",
            ["x", "'another result'", "x"],
        ),
        "lock": ("import threading; lock = threading.Lock()", ["lock", "lock.locked()"]),
        "shell": ("y = 1", ["!true"]),
        "frame": (
            "import pandas as pd\n"
            "df = pd.DataFrame({'v': [1., 2]}, index=pd.date_range('2024-01-01', periods=2))\n"
            "df['t'] = df.index.tz_localize('UTC'); df.columns = pd.CategoricalIndex(df.columns)",
            ["df", "df.groupby('t').v.sum(), df.loc['2024-01-02']", "df.index"],
        ),
        "large output": ("y = 1", ["'x' * 200_000"]),
    }.values(),
    ids=["figure", "lock", "shell", "frame", "large output"],
)
def test_cell_that_only_looks_is_no_step_of_undo_and_keeps_redo(own_kernel, setup, looks):
    own_kernel.ok("x = 1")
    own_kernel.ok(setup)
    own_kernel.ok("x = 2")
    for cell in looks:
        own_kernel.ok(cell)
    assert last_commit(own_kernel)["verified"] == "touched"
    own_kernel.ok("%undo")
    assert own_kernel.eval("x") == "1"
    for cell in looks:
        own_kernel.ok(cell)
    own_kernel.ok("%redo")
    assert own_kernel.eval("x") == "2"


def test_result_that_stays_the_last_one_is_not_looked_at_again(own_kernel):
    own_kernel.ok(
        "import builtins; builtins.looks = 0\nclass P:\n    def __getstate__(self):\n"
        "        builtins.looks += 1\n        return {}\np = [P()]\np"
    )
    commits(own_kernel)
    before = own_kernel.eval("looks")
    own_kernel.ok("x = 1")
    own_kernel.ok("x = 2")
    commits(own_kernel)
    assert own_kernel.eval("looks") == before


def test_series_and_frame_that_share_memory_copy_on_write_after_an_undo(own_kernel):
    own_kernel.ok("import pandas as pd\nf = pd.DataFrame({'a': [1, 2], 'b': [3, 4]}); s = f['a']")
    own_kernel.ok("t = pd.Series([1, 2, 3]); u = t[:2]; v = t.rename('v')")
    own_kernel.ok("del f, s, t, u, v")
    own_kernel.ok("%undo")
    own_kernel.ok("f.loc[0, 'a'] = 9; t[0] = 9")
    assert own_kernel.eval("s.tolist(), u.tolist(), v.tolist()") == "([1, 2], [1, 2], [1, 2, 3])"


def test_committed_array_can_be_resized(own_kernel):
    own_kernel.ok("import numpy as np\nx = np.arange(4)")
    own_kernel.ok("x.resize(8)")
    own_kernel.ok("%undo")
    assert own_kernel.eval("x.tolist()") == "[0, 1, 2, 3]"


def test_code_that_loading_runs_finds_the_names_it_uses():
    session = "--Savepoints.session=lent"
    with start_kernel(session) as kernel:
        kernel.ok(
            "import numpy as np\nsize = 2\ndef make(): return np.zeros(size)\n"
            "class A:\n    def __setstate__(self, state): self.v = state['v']; self.c = make()\n"
            "    def __getstate__(self): return {'v': self.v}\n"
            "class K:\n    def __hash__(self): return size\n    def __eq__(self, o): return True\n"
            "a = A(); a.v = [1]; d = {K(): 1}; x = [1, 2]"
        )
        kernel.ok("class Bad:\n    def __setstate__(self, state): raise OSError('gone')")
        kernel.ok("bad = Bad(); bad.v = 1")
        kernel.client.shutdown()
        kernel.manager.provisioner.process.wait(30)
    with start_kernel(session) as kernel:
        assert "gone" in shown(kernel, "%restore")
        assert kernel.eval("a.v, len(a.c), d[K()], x") == "([1], 2, 1, [1, 2])"
        assert kernel.run("bad.v").content["ename"] == "DroppedReferenceError"


def test_object_that_cannot_be_saved_is_found_by_undo_after_it_was_let_go(own_kernel):
    own_kernel.ok("import threading; held = {'lock': threading.Lock()}")
    own_kernel.ok("held = 1")
    own_kernel.ok("%undo")
    assert own_kernel.eval("list(held)") == "['lock']"


def test_object_that_cannot_be_saved_is_held_again_once_an_undo_has_found_it(own_kernel):
    others = "\n".join(f"g{i} = (n for n in ())" for i in range(101))
    own_kernel.ok(f"x = zip(n for n in 'ab')\n{others}")  # no weak reference to it is possible
    own_kernel.ok("del x")
    own_kernel.ok("%undo")
    own_kernel.ok(others)
    own_kernel.run("%%transaction\n1/0")
    assert own_kernel.eval("type(x)") == "zip"
    own_kernel.ok("del x")
    own_kernel.ok("%undo")
    assert own_kernel.eval("next(x)") == "('a',)"


def test_object_of_a_failed_cell_that_cannot_be_saved_is_let_go(own_kernel):
    others = "\n".join(f"g{i} = (n for n in ())" for i in range(101))
    own_kernel.ok(f"import gc, sys, weakref\n{others}")
    own_kernel.run(
        "%%transaction\ngen = (n for n in 'ab'); sys.gone = weakref.ref(gen); z = zip(gen)\n1/0"
    )
    own_kernel.ok(others)
    own_kernel.ok("gc.collect()")
    assert own_kernel.eval("sys.gone()") == "None"


def test_table_of_which_a_part_could_not_be_stored_is_stored_whole_the_next_time():
    chunks: dict[bytes, bytes] = {}
    full = False

    def put(chunk: bytes | memoryview) -> bytes:
        if full and len(chunks) > 4:
            raise QuotaExceeded
        address = hashlib.sha256(chunk).digest()
        chunks[address] = bytes(chunk)
        return address

    def groups(reason: str) -> list[Group]:
        return [Group(None, frozenset(), {name: Dropped("a type", reason, name)}) for name in ranks]

    ranks = {f"name{i}": i for i in range(100)}
    writer = TableWriter(put)
    assert len(writer.write(groups("before"), ranks)) == 4
    after, full = groups("after"), True
    with pytest.raises(QuotaExceeded):
        writer.write(after, ranks)
    full = False
    table = read(writer.write(after, ranks), chunks.__getitem__)
    assert {group.dropped[name].reason for group in table.groups for name in group.dropped} == {
        "after"
    }
