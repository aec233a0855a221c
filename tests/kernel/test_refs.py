"""Live references: what can't be saved is held, explained, and made again where it is gone."""

from __future__ import annotations

import os
import signal

import pytest

from .harness import Kernel, start_kernel
from .test_timeline import ask, commits, last_commit, shown

IMPORT = "from savepoint_kernel import api as savepoint\n"

DATABASE = (
    IMPORT
    + """
import sqlite3
calls = []
def connect():
    calls.append(len(calls))
    return sqlite3.connect(path)
connection = connect()
alias = connection
key = savepoint.refs.put(connection, name="database", recreate=connect)
"""
)


@pytest.fixture
def kernel(kernel: Kernel) -> Kernel:
    """The shared kernel, with an empty namespace and no live references."""
    kernel.ok(IMPORT + "for each in savepoint.refs.list(): savepoint.refs.remove(each.key)")
    kernel.ok("%reset -f", store_history=False)
    return kernel


def held(kernel: Kernel) -> str:
    return kernel.eval("[(r.name, r.type, r.alive, r.recreate) for r in savepoint.refs.list()]")


def kill(kernel: Kernel) -> None:
    """End a kernel without warning, with all its commits on disk."""
    commits(kernel)
    os.kill(kernel.pid, signal.SIGKILL)
    kernel.manager.provisioner.process.wait(30)


def kept(name: str) -> tuple[str, str]:
    return f"--Savepoints.session={name}", "--Savepoints.durability=sync"


# ---- holding


def test_object_is_held_until_it_is_removed(kernel):
    kernel.ok(
        IMPORT + "import weakref, gc\nnumbers = (n for n in range(3)); next(numbers)\n"
        "gone = weakref.ref(numbers); key = savepoint.refs.put(numbers, name='numbers')"
    )
    kernel.ok("del numbers; gc.collect()")
    assert kernel.eval("(gone() is None, next(savepoint.refs.get('numbers')))") == "(False, 1)"
    assert held(kernel) == "[('numbers', 'builtins.generator', True, False)]"
    kernel.ok("savepoint.refs.remove(key); gc.collect()")
    assert kernel.eval("(gone() is None, len(savepoint.refs.list()))") == "(True, 0)"
    for method in ("get", "remove"):
        result = kernel.run(f"savepoint.refs.{method}('numbers')")
        assert result.content["ename"] == "DroppedReferenceError"


def test_held_object_comes_back_itself_however_far_the_undo(kernel):
    kernel.ok(IMPORT + "numbers = (n for n in range(9)); next(numbers)")
    kernel.ok("savepoint.refs.put(numbers)")
    kernel.ok("del numbers; import gc; gc.collect(); x = 1")
    kernel.ok("%undo")
    assert kernel.eval("next(numbers)") == "1"


def test_object_put_twice_has_one_entry_and_a_name_means_the_latest_object(kernel):
    kernel.ok(IMPORT + "import threading\na = threading.Lock(); b = threading.Lock()")
    kernel.ok("first = savepoint.refs.put(a)")
    kernel.ok("again = savepoint.refs.put(a, 'lock')")
    assert kernel.eval("(first == again, len(savepoint.refs.list()))") == "(True, 1)"
    kernel.ok("savepoint.refs.put(b, 'lock')")
    assert kernel.eval("savepoint.refs.get('lock') is b") == "True"
    assert kernel.eval("len(savepoint.refs.list())") == "1"


def test_full_registry_refuses_and_says_what_to_do():
    with start_kernel("--Savepoints.references=2") as kernel:
        kernel.ok(IMPORT + "items = [(n for n in ()) for _ in range(3)]")
        kernel.ok("for item in items[:2]: savepoint.refs.put(item, str(items.index(item)))")
        result = kernel.run("savepoint.refs.put(items[2])")
        assert result.content["ename"] == "ReferencesFull"
        assert "Savepoints.references is 2" in result.content["evalue"]
        kernel.ok("savepoint.refs.put(items[1], 'renamed')")
        kernel.ok("savepoint.refs.put(items[2], 'renamed')")
        assert kernel.run("savepoint.refs.put(items[1])").content["ename"] == "ReferencesFull"
        kernel.ok("%config Savepoints.references = 3")
        kernel.ok("savepoint.refs.put(items[1])")


@pytest.mark.parametrize(
    ("recreate", "ename", "said"),
    [
        ("lambda lock=lock: lock", "NotPicklable", "can't be saved with a commit"),
        ("lambda data=bytes(300_000): data", "NotPicklable", "can't be saved with a commit"),
        ("lambda x: x", "TypeError", "called without arguments"),
        ("wait", "TypeError", "async"),
        ("1", "TypeError", "must be a function"),
    ],
)
def test_recreate_that_could_not_be_called_later_is_refused_at_once(kernel, recreate, ename, said):
    kernel.ok(IMPORT + "import threading\nlock = threading.Lock()\nasync def wait(): pass")
    result = kernel.run(f"savepoint.refs.put(lock, recreate={recreate})")
    assert result.content["ename"] == ename
    assert said in result.content["evalue"]
    assert held(kernel) == "[]"


# ---- made again


def test_connection_is_made_again_in_a_new_process_after_a_kill(tmp_path):
    path = str(tmp_path / "data.db")
    with start_kernel(*kept("database")) as kernel:
        kernel.ok(f"path = {path!r}")
        kernel.ok(DATABASE)
        kernel.ok("with connection: connection.execute('create table t as select 7 as x')")
        assert "makes it again" in last_commit(kernel)["dropped"]["connection"]
        kernel.ok("%savepoint gc")
        kill(kernel)
    for calls in ("[0, 1]", "[0, 1, 2]"):  # the second time from commits of the second process
        with start_kernel(*kept("database")) as kernel:
            report = shown(kernel, "%restore")
            assert "made again by recreate(): connection, alias" in report.replace(
                "alias, connection", "connection, alias"
            )
            assert "not as it was: connection" not in report
            query = "connection.execute('select x from t').fetchone()"
            assert kernel.eval(f"(alias is connection, {query})") == "(True, (7,))"
            assert kernel.eval("calls") == calls
            assert held(kernel) == "[('database', 'sqlite3.Connection', True, True)]"
            assert kernel.eval("savepoint.refs.get(key) is connection") == "True"
            kernel.ok("x = 1")
            assert "calls" not in last_commit(kernel)["removed"]
            kill(kernel)


def test_generator_is_made_again_when_it_is_gone_in_the_same_process(kernel):
    kernel.ok(
        IMPORT + "start = 5\ndef count():\n    yield from range(start, 9)\n"
        "numbers = count(); key = savepoint.refs.put(numbers, recreate=count)"
    )
    kernel.ok("savepoint.refs.remove(key); del numbers; start = 0")
    kernel.ok("%undo")
    assert kernel.eval("(next(numbers), next(savepoint.refs.get(key)))") == "(5, 6)"


def test_placeholder_that_comes_back_is_not_called_the_object(kernel):
    kernel.ok("g = (n for n in 'ab')")
    kernel.ok("del g")
    lost = "g: a builtins.generator was not saved: an object of type 'generator' can't be saved"
    assert lost in shown(kernel, "%undo")
    kernel.ok("x = 1")
    kernel.ok("del g")
    assert lost in shown(kernel, "%undo")
    assert "'generator' can't be saved" in kernel.eval("g")
    for cell, named in (("next(g)", False), ("del g; 1/0", True)):
        report = kernel.run(f"%%transaction\n{cell}").savepoint["transaction"]
        assert report["outcome"] == "rolled_back"
        assert ("g" in report["unrestorable"]) is named
        assert "same object" not in str(report)


def test_request_and_api_say_what_was_made_again(kernel):
    kernel.ok(IMPORT + "make = lambda: (n for n in range(3))\ng = make()")
    kernel.ok("key = savepoint.refs.put(g, recreate=make)")
    kernel.ok("savepoint.refs.remove(key); del g")
    reply = ask(kernel, "restore", undo=1)
    assert (reply["recreated"], reply["unrestorable"]) == (["g"], {})
    kernel.ok("savepoint.refs.remove(key); del g")
    kernel.ok("restored = savepoint.undo().recreated, next(g)")
    assert kernel.eval("restored") == "(('g',), 0)"


def test_rollback_makes_again_what_the_failed_cell_let_go(kernel):
    kernel.ok(IMPORT + "made = []\ndef make():\n    made.append(1)\n    return (n for n in 'ab')")
    kernel.ok("g = make(); key = savepoint.refs.put(g, recreate=make)")
    result = kernel.run("%%transaction\nsavepoint.refs.remove(key)\ndel g\n1/0")
    report = result.savepoint["transaction"]
    assert (report["outcome"], report["recreated"]) == ("rolled_back", ["g"])
    assert kernel.eval("(next(g), made)") == "('a', [1, 1])"
    kernel.ok("x = 1")
    assert "made" in last_commit(kernel)["changed"]  # by make(), after the rollback


def test_change_by_a_function_that_could_not_make_it_again_is_committed(kernel):
    kernel.ok(
        IMPORT + "made = []\ndef make():\n    made.append(1)\n    assert len(made) == 1\n"
        "    return (n for n in 'ab')"
    )
    kernel.ok("g = make(); key = savepoint.refs.put(g, recreate=make)")
    result = kernel.run("%%transaction\nsavepoint.refs.remove(key)\ndel g\n1/0")
    report = result.savepoint["transaction"]
    assert (report["recreated"], list(report["unrestorable"])) == ([], ["g"])
    kernel.ok("x = 1")
    assert "made" in last_commit(kernel)["changed"]


def test_nothing_is_made_again_by_a_restore_that_does_not_need_it(kernel, tmp_path):
    kernel.ok(f"path = {str(tmp_path / 'data.db')!r}")
    kernel.ok(DATABASE)
    kernel.ok("x = 1")
    kernel.ok("connection = alias = None")
    kernel.ok("%undo")
    assert kernel.eval("(calls, connection is savepoint.refs.get('database'))") == "([0], True)"


def test_only_what_was_asked_for_and_registered_is_made_again():
    with start_kernel(*kept("asked")) as kernel:
        kernel.ok(
            IMPORT + "calls = []\ndef make(): calls.append(1); return (n for n in 'ab')\n"
            "a, b, c = make(), make(), make()\n"
            "for each in (a, b): savepoint.refs.put(each, recreate=make)\n"
            "savepoint.refs.put(c, 'held only'); del each"
        )
        kill(kernel)
    with start_kernel(*kept("asked")) as kernel:
        number = commits(kernel)[-2]["number"]
        kernel.ok(f"%restore {number} a make calls")
        assert kernel.eval("(next(a), 'b' in globals(), len(calls))") == "('a', False, 4)"
        assert {"a", "calls", "make"} <= set(last_commit(kernel)["added"])
        assert "not as it was: c: " in shown(kernel, f"%restore {number}")
        assert kernel.eval("(next(a), next(b), len(calls))") == "('b', 'a', 4)"
        assert kernel.run("next(c)").content["ename"] == "DroppedReferenceError"


def test_recreate_that_fails_explains_itself_and_is_tried_again_later(tmp_path):
    path = tmp_path / "source.txt"
    path.write_text("one two")
    with start_kernel(*kept("fails")) as kernel:
        kernel.ok(IMPORT + f"def words():\n    return iter_words(open({str(path)!r}).read())")
        kernel.ok("def iter_words(text): return (word for word in text.split())")
        kernel.ok("w = words(); other = iter_words('x'); data = [1]")
        kernel.ok("savepoint.refs.put(w, 'words', words)")
        kernel.ok("savepoint.refs.put(other, 'other', lambda: iter_words('y'))")
        kernel.ok("savepoint.refs.put(u := iter_words(''), 'nothing', lambda: None)")
        kill(kernel)
    path.unlink()
    with start_kernel(*kept("fails")) as kernel:
        report = shown(kernel, "%restore")
        assert "not as it was: w: a builtins.generator was not saved, and recreate() raised" in (
            report
        )
        assert "not as it was: u" in report
        assert kernel.eval("(next(other), data)") == "('y', [1])"
        assert "FileNotFoundError" in kernel.eval("w")
        assert "recreate() returned None" in kernel.eval("u")
        for code in ("next(w)", "savepoint.refs.get('words')", "savepoint.refs.put(w)"):
            result = kernel.run(code)
            assert result.content["ename"] == "DroppedReferenceError"
            assert "FileNotFoundError" in result.content["evalue"]
        assert "'words', 'builtins.generator', False, True" in held(kernel)
        kernel.ok("x = 1")
        kill(kernel)
    path.write_text("one two")
    with start_kernel(*kept("fails")) as kernel:
        assert "made again by recreate(): " in shown(kernel, "%restore")
        assert kernel.eval("(next(w), x)") == "('one', 1)"


def test_interrupt_ends_a_recreate_that_never_ends(gate):
    with start_kernel(*kept("endless")) as kernel:
        kernel.ok(IMPORT + "endless = False\nmake = lambda: (n for n in 'ab')")
        kernel.ok(
            f"def wait():\n    print('waiting', flush=True)\n    {gate.wait}\n"
            "g, h, x = make(), make(), 1\n"
            "savepoint.refs.put(g, recreate=wait); savepoint.refs.put(h, recreate=wait)"
        )
        kill(kernel)
    with start_kernel(*kept("endless")) as kernel:
        cell = kernel.start("%restore")
        kernel.stream(cell, "waiting")
        kernel.interrupt()
        assert kernel.finish(cell).content["status"] == "ok"
        assert kernel.eval("x") == "1"
        reasons = kernel.eval("repr(g) + repr(h)")
        assert "recreate() was interrupted" in reasons
        assert "before recreate() was called" in reasons


def test_session_restored_on_start_is_made_again_in_its_directory_and_environment(tmp_path):
    with start_kernel(*kept("on-start")) as kernel:
        kernel.ok(IMPORT + f"import os\nos.chdir({str(tmp_path)!r}); os.environ['MODE'] = 'test'")
        kernel.ok(
            "def where(): here = os.getcwd(), os.environ['MODE']; return (x for x in here)\n"
            "g = where(); savepoint.refs.put(g, recreate=where)"
        )
        kill(kernel)
    with start_kernel(*kept("on-start"), "--Savepoints.restore_on_start=True") as kernel:
        kernel.ok("x = 1")
        assert kernel.eval(f"list(g) == {[str(tmp_path), 'test']}") == "True"


# ---- what cells and commits say


def test_refs_lists_what_is_held_and_what_is_not_saved(own_kernel):
    assert "All names are saved." in own_kernel.ok("%refs").text()
    own_kernel.ok(IMPORT + "make = lambda: (n for n in 'ab')\ng = make(); h = make()")
    own_kernel.ok("savepoint.refs.put(g, 'letters', make)")
    result = own_kernel.ok("%refs")
    (table,) = result.of("display_data")
    row = table["content"]["data"]["text/plain"].splitlines()[1].split()
    assert row[:4] == ["letters", "builtins.generator", "yes", "yes"]
    assert "<td>letters</td>" in table["content"]["data"]["text/html"]
    lines = result.text().splitlines()
    assert any(line.startswith("g: builtins.generator: a restore makes it") for line in lines)
    assert any(line.startswith("h: builtins.generator: ") for line in lines)


def test_put_in_a_later_cell_is_part_of_that_cells_commit(kernel):
    kernel.ok(IMPORT + "make = lambda: (n for n in 'ab')\ng, h = make(), make()")
    kernel.ok("savepoint.refs.put(g, 'letters', make)")

    def made_again() -> list[bool]:
        dropped = last_commit(kernel)["dropped"]
        return ["makes it again" in dropped[name] for name in "gh"]

    assert made_again() == [True, False]
    kernel.ok("savepoint.refs.put(h, 'letters', make)")  # in place of g
    assert made_again() == [False, True]
    kernel.ok("savepoint.refs.remove('letters')")
    assert made_again() == [False, False]


def test_policies_of_a_checkpoint(kernel):
    kernel.ok(IMPORT + "import threading\nlock = threading.Lock(); make = threading.Lock")
    before = len(commits(kernel))
    reply = ask(kernel, "checkpoint", name="hard", policy="hard_error")
    assert reply["ename"] == "UnrestorableState"
    assert "lock: _thread.lock" in reply["evalue"]
    assert len(commits(kernel)) == before
    reply = ask(kernel, "checkpoint", name="soft", policy="pickle_or_error")
    assert reply["ename"] == "UnrestorableState"
    assert len(commits(kernel)) == before + 1
    assert ask(kernel, "checkpoint", name="warned", policy="warn_drop")["dropped"].keys() == {
        "lock"
    }
    assert ask(kernel, "checkpoint", policy="no such")["ename"] == "ValueError"
    kernel.ok("savepoint.refs.put(lock, recreate=make); None")
    for policy in ("hard_error", "pickle_or_error"):
        assert ask(kernel, "checkpoint", name=policy, policy=policy)["status"] == "ok"
    made = ask(kernel, "timeline", settled=True)["checkpoints"].keys()
    assert made >= {"warned", "hard_error", "pickle_or_error"}
    assert made.isdisjoint({"hard", "soft"})


def test_cell_that_leaves_what_cannot_be_saved_is_told_so_once_if_asked_for():
    with start_kernel("--Savepoints.unsaved=hard_error") as kernel:

        def told(code: str) -> str:
            msg_id = kernel.start(code)
            kernel.finish(msg_id)
            commits(kernel)  # the notice comes with the commit, after the cell
            kernel.eval("1")
            return "".join(
                m["content"]["text"]
                for m in kernel.unclaimed("iopub", {msg_id})
                if m["msg_type"] == "stream"
            )

        assert told("x = 1") == ""
        assert "  lock: _thread.lock: " in told("import threading\nlock = threading.Lock(); y = 1")
        assert last_commit(kernel)["added"] == ["threading", "lock", "y"]
        assert told("lock.acquire()") == ""
        assert "  lock: " in told("lock = threading.Lock()")
        assert told("(n for n in ())") == ""
        assert (
            told(
                IMPORT
                + "g = (n for n in ())\nsavepoint.refs.put(g, recreate=lambda: iter(())); None"
            )
            == ""
        )
