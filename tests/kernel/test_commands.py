"""What users ask of the timeline, and what they are told: magics, API, notices."""

from __future__ import annotations

import pytest

from .harness import Kernel, start_kernel
from .test_timeline import ask, commits, last_commit, shown, usage_error

SMALL_DISK = (
    "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, resource.RLIM_INFINITY))"
)
"""No file may grow further, as if the disk were full: other packs have these many bytes."""

LARGE_DISK = (
    "resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))"
)


def told(kernel: Kernel, text: str) -> str:
    """Wait for a notice; it comes after the reply of the cell it is about."""
    return kernel.wait(
        "iopub", lambda m: m["msg_type"] == "stream" and text in m["content"]["text"]
    )["content"]["text"]


@pytest.mark.parametrize(
    ("code", "error"),
    {
        "superscript": ("%timeline ²", "takes a number from 0 up, not '²'"),
        "digits": (f"%undo {'9' * 5000}", "takes a number from 1 up"),
        "removed": ("%restore ²", "there is no checkpoint, branch or commit"),
        "redo": ("%redo 2", "takes no arguments, not '2'"),
        "refs": ("%refs x", "takes no arguments"),
        "begin": ("%begin x", "takes no arguments"),
        "commit": ("%commit x", "takes no arguments"),
        "name": ("%checkpoint data/clean", "letters, digits, spaces and any of"),
        "quote": ("%checkpoint -m it's", "put quotes around quotes"),
        "typo": ("%savepoint list", "status, gc, config, sessions, delete, trust"),
        "to": ("%rollback to", "takes one savepoint or none"),
        "two": ("%rollback a b", "takes one savepoint or none"),
        "release": ("%release", "takes one savepoint"),
    }.values(),
    ids=lambda value: value.split()[0],
)
def test_magic_that_makes_no_sense_says_what_would(kernel, code, error):
    kernel.ok("x = 1")
    assert error in usage_error(kernel, code)
    assert kernel.eval("x") == "1"


@pytest.mark.parametrize(
    ("call", "ename", "evalue"),
    [
        ("undo('1')", "TypeError", "must be a whole number, not '1'"),
        ("undo(0)", "ValueError", "must be at least 1, not 0"),
        ("timeline(-1)", "ValueError", "count must be at least 0"),
        ("checkpoint(5)", "TypeError", "the name must be a string, not 5"),
        ("checkpoint('epoch', 5)", "TypeError", "the message must be a string, not 5"),
        ("restore(names=[1])", "TypeError", "a name to restore must be a string, not 1"),
    ],
)
def test_function_says_what_is_wrong_with_an_argument(kernel, call, ename, evalue):
    kernel.ok("from savepoint_kernel import api as savepoint")
    result = kernel.run(f"savepoint.{call}")
    assert result.content["ename"] == ename
    assert evalue in result.content["evalue"]
    assert shown(kernel, "%timeline")


def test_commit_and_one_name_can_be_restored_as_they_are(kernel):
    kernel.ok("from savepoint_kernel import api as savepoint\nab = 1; a = 2")
    kernel.ok("commit = savepoint.checkpoint()")
    kernel.ok("ab = 3; a = 4")
    kernel.ok("savepoint.restore(commit, names='ab');")
    assert kernel.eval("ab, a") == "(1, 4)"


def test_diff_shows_what_differs_within_a_value(kernel):
    kernel.ok("import numpy as np, pandas as pd")
    kernel.ok(
        "frame = pd.DataFrame({'a': [1, 2]}); array = np.zeros(3); same = [array]; text = 'x' * 100"
        "\nitems = list(range(100)); few = {3, 1}; held = [few, 1]"
    )
    first = last_commit(kernel)["number"]
    kernel.ok(
        "frame.loc[0, 'a'] = 99; array[1] = float('nan'); text = text[:-1] + 'y'; items.append(5)\n"
        "held[1] = 2"
    )
    lines = shown(kernel, f"%diff {first} {last_commit(kernel)['number']}").splitlines()
    found = {line.split()[0]: line for line in lines[1:]}
    assert found.keys() == {"array", "frame", "held", "items", "same", "text"}
    assert "1 of 3 elements differ" in found["array"]
    assert "1 of 2 elements differ" in found["frame"]
    assert found["items"].endswith("98, 99, 5]")
    assert found["text"].endswith("xxxy'")


def test_cells_that_displayed_something_are_not_listed(own_kernel):
    own_kernel.ok("x = 1")
    own_kernel.ok("x + 1")
    own_kernel.ok("y = 1")
    assert "x + 1" not in shown(own_kernel, "%timeline")
    assert "x + 1" in shown(own_kernel, "%timeline --all")


@pytest.mark.parametrize(
    "cell",
    [
        "warnings.filterwarnings('ignore')",
        "random.seed(3)",
        "logging.getLogger('mine').setLevel(10)",
        "decimal.getcontext().prec = 5",
        "sys.setrecursionlimit(5000)",
    ],
)
def test_undo_takes_back_a_cell_that_set_the_process_and_no_other(own_kernel, cell):
    state = (
        "len(warnings.filters), random.getstate()[1][:3], logging.getLogger('mine').level, "
        "decimal.getcontext().prec, sys.getrecursionlimit()"
    )
    own_kernel.ok("import warnings, random, logging, decimal, sys; x = 1")
    own_kernel.ok("x = 2")
    before = own_kernel.eval(state)
    own_kernel.ok(cell)
    assert own_kernel.eval(state) != before
    own_kernel.ok("%undo")
    assert own_kernel.eval(f"({state}), x") == f"({before}, 2)"


def test_what_an_import_sets_is_no_change_of_its_own(own_kernel, tmp_path):
    (tmp_path / "sets.py").write_text("import logging; logging.getLogger('sets').setLevel(10)")
    own_kernel.ok(f"import sys; sys.path.insert(0, {str(tmp_path)!r}); x = 1")
    own_kernel.ok("x = 2")
    own_kernel.ok("__import__('sets')")
    assert last_commit(own_kernel)["process_changed"] == []
    own_kernel.ok("%undo")
    assert own_kernel.eval("x") == "1"


def test_object_that_only_a_result_holds_keeps_no_checkpoint_from_its_name(own_kernel):
    own_kernel.ok("from savepoint_kernel import api as savepoint\ng = (n for n in 'ab')")
    own_kernel.ok("g")
    own_kernel.ok("del g")
    own_kernel.ok("savepoint.checkpoint('x');")
    assert own_kernel.ok("%refs").text() == "All names are saved.\n"


def test_participant_of_a_cell_that_runs_again_takes_its_own_place(own_kernel):
    cell = (
        "from savepoint_kernel import api as savepoint\n"
        "class Note:\n"
        "    name = 'note'\n"
        "    def capture(self): return 1\n"
        "    def restore(self, token): pass\n"
        "savepoint.register(Note())"
    )
    own_kernel.ok(cell)
    own_kernel.ok(cell)
    assert "kernel's own" in own_kernel.run(cell.replace("'note'", "'random'")).content["evalue"]


def test_branches_are_listed_from_the_first_cell_on_and_say_what_going_there_did(own_kernel):
    assert own_kernel.ok("%branch").text().startswith("* main: commit ")
    own_kernel.ok("x = 1; y = [2]")
    assert "begins at commit" in own_kernel.ok("%branch one").text()
    own_kernel.ok("x = 3; del y")
    assert "set: x, y" in shown(own_kernel, "%branch main")


def test_checkpoint_says_where_its_name_was_before(own_kernel):
    own_kernel.ok("%checkpoint kept")
    first = next(c["number"] for c in commits(own_kernel) if c["kind"] == "checkpoint")
    assert f"(it was commit {first})" in own_kernel.ok("%checkpoint kept").text()


def test_option_of_the_start_cannot_change_by_config_either(own_kernel):
    own_kernel.ok("x = 1")
    result = own_kernel.ok("%config Savepoints.durability = 'sync'")
    assert "can't change while the kernel runs" in result.text("stderr")
    assert "async" in shown(own_kernel, "%savepoint config durability")


def test_reply_of_a_cell_that_goes_elsewhere_promises_no_commit(own_kernel):
    own_kernel.ok("x = 1")
    own_kernel.ok("x = 2")
    assert own_kernel.ok("%undo").savepoint["commit"] is None


def test_transaction_line_may_have_empty_lines_before_it(own_kernel):
    own_kernel.ok("x = 1")
    result = own_kernel.run("\n  \n%%transaction\nx = 2\n1/0")
    assert result.content["ename"] == "ZeroDivisionError"
    assert own_kernel.eval("x") == "1"


def test_what_nothing_is_left_of_is_said(own_kernel):
    assert "there is nothing to undo" in usage_error(own_kernel, "%undo")
    for number in range(3):
        own_kernel.ok(f"x = {number}")
    own_kernel.ok("%savepoint gc")
    assert "commits before" in usage_error(own_kernel, "%undo")
    assert "commit 2 was removed" in usage_error(own_kernel, "%restore 2")


def test_new_process_says_what_it_could_not_restore_and_how_to_go_back():
    session = "--Savepoints.session=lost"
    with start_kernel(session, "--Savepoints.durability=sync") as kernel:
        kernel.ok("x = 1; g = (n for n in 'ab')")
        kernel.ok("%branch other")
        kernel.ok("y = 1")
        commits(kernel)
    with start_kernel(session) as kernel:
        assert "%restore goes to where" in usage_error(kernel, "%undo")
        assert "not as it was: g: " in shown(kernel, "%branch main")
    with start_kernel(session, "--Savepoints.restore_on_start=True") as kernel:
        result = kernel.ok("x")
        assert "g: a builtins.generator was not saved" in result.text("stderr")


@pytest.mark.parametrize("durability", ["async", "sync"])
def test_full_disk_is_reported_and_costs_nothing_if_there_is_room_again(durability):
    options = ("--Savepoints.session=full", f"--Savepoints.durability={durability}")
    with start_kernel(*options) as kernel:
        kernel.ok("import os; a = [1]")
        kernel.ok(SMALL_DISK)
        kernel.ok("b = os.urandom(300_000); digest = hash(b)")
        if durability == "async":
            # The writer thread fails soon after; the next cell says so.
            failed = kernel.run("get_ipython().kernel.savepoints.flush()")
            assert failed.content["ename"] == "OSError"
        assert "too large" in told(kernel, "can't be written")
        assert "not on disk yet" in kernel.ok("%checkpoint full").text()
        assert ask(kernel, "checkpoint")["status"] == ("error" if durability == "sync" else "ok")
        kernel.ok("a.append(2); c = 1")
        kernel.ok("d = 1")
        kernel.ok("%undo")
        assert (
            kernel.eval("a, c, 'd' in globals(), hash(b) == digest") == "([1, 2], 1, False, True)"
        )
        kernel.ok(LARGE_DISK)
        kernel.ok("get_ipython().kernel.savepoints.flush(); e = 1")
        told(kernel, "Commits are written")
        commits(kernel)
        kernel.ok("get_ipython().kernel.savepoints.flush()")
    with start_kernel(*options) as kernel:
        kernel.ok("%restore")
        assert kernel.eval("a, c, e, 'd' in globals(), len(b)") == "([1, 2], 1, 1, False, 300000)"
        kernel.ok("%restore full")
        assert kernel.eval("a, 'c' in globals()") == "([1], False)"


def test_values_over_the_quota_cost_the_others_one_commit_at_most():
    with start_kernel("--Savepoints.quota=10000000") as kernel:
        kernel.ok("import os; x = 1")
        kernel.ok("larger = os.urandom(11_000_000)")
        assert "larger" in last_commit(kernel)["dropped"]
        kernel.ok("nearly = os.urandom(9_999_900); x = 2")
        assert "Savepoints.quota" in told(kernel, "could not be committed")
        kernel.ok("nearly = 0; y = 3")
        commit = last_commit(kernel)
        assert {"nearly", "x", "y"} <= {*commit["added"], *commit["changed"]}
        kernel.ok("%undo")
        assert kernel.eval("x, 'y' in globals(), 'nearly' in globals()") == "(1, False, False)"


def test_policy_that_needs_a_timeline_says_how_to_do_without(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    options = (f"--Savepoints.directory={blocked}/below",)
    with start_kernel(*options, "--Savepoints.transaction=rollback_on_failure") as kernel:
        refused = kernel.run("x = 1").content["evalue"]
        assert "%%transaction commit_always" in refused
        kernel.ok("%%transaction commit_always\n%transaction commit_always")
        kernel.ok("x = 1")
        assert "there is no timeline" in usage_error(kernel, "%transaction rollback_always")


def test_console_goes_on_after_a_transaction_line(kernel):
    def status(code: str) -> str:
        msg_id = kernel.send("is_complete_request", {"code": code})
        return kernel.reply(msg_id)["content"]["status"]

    assert status("%%transaction") == status("%%transaction\nx = 1") == "incomplete"
    assert status("%%transaction\nx = 1\n\n") == "complete"
