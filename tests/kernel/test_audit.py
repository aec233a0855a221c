"""The audit: changes that no cell's code shows are found while the kernel idles."""

from __future__ import annotations

import time

import pytest

from .harness import Kernel, Message
from .test_timeline import ask, commits

DEADLINE = 30.0
"""Seconds; only a broken kernel takes as long."""


def audited(kernel: Kernel, kind: str = "audit") -> Message:
    """Wait for the commit that the audit makes."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        last = ask(kernel, "timeline", count=1)["commits"][-1]
        if last["kind"] == kind:
            return last
    raise AssertionError("the audit has made no commit")


@pytest.fixture
def hidden(own_kernel: Kernel) -> Kernel:
    """A kernel whose cells can change ``x`` unnoticed."""
    own_kernel.ok("%config Savepoints.audit_after = 0.05")
    own_kernel.ok("import sys; other = 1")
    own_kernel.ok("x = [1]; sys.held = x")
    return own_kernel


def test_unnoticed_change_is_committed_while_idle(hidden):
    hidden.ok("sys.held.append(2)")
    commit = audited(hidden)
    assert (commit["changed"], commit["verified"]) == (["x"], "full")
    assert commits(hidden)[-2]["changed"] == []


def test_unnoticed_change_is_undone_with_the_cell_that_made_it(hidden):
    hidden.ok("other = 2")
    hidden.ok("sys.held.append(2)")
    audited(hidden)
    hidden.ok("%undo")
    assert hidden.eval("x, other") == "([1], 2)"
    hidden.ok("%undo")
    assert hidden.eval("x, other") == "([1], 1)"
    hidden.ok("%redo")
    hidden.ok("%redo")
    assert hidden.eval("x, other") == "([1, 2], 2)"


def test_audit_goes_on_after_a_cell_came_between(hidden):
    hidden.ok("many = [0]; " + "; ".join(f"name{i} = [{i}]" for i in range(500)))
    hidden.ok("sys.many = many")
    hidden.ok("sys.many.append(1)")
    for i in range(20):
        hidden.ok(f"other = {i}")
    assert "many" in audited(hidden)["changed"]


def test_audit_goes_on_after_a_silent_cell_came_between(hidden):
    hidden.ok("sys.held.append(2)")
    # The audit's time comes while it runs.
    hidden.ok(
        "import asyncio; await asyncio.sleep(2 * get_ipython().kernel.savepoints.audit_after)",
        silent=True,
    )
    assert "x" in audited(hidden, "outside")["changed"]


def test_values_that_pickle_otherwise_each_time_are_no_find(own_kernel):
    own_kernel.ok("%config Savepoints.audit_after = 0.01")
    own_kernel.ok(
        "import itertools, sys\nsys.counter = itertools.count()\n"
        "class Odd:\n    def __reduce__(self): return Odd, (), {'n': next(sys.counter)}\n"
        "odd = Odd()"
    )
    own_kernel.ok("x = [1]; sys.held = x")
    own_kernel.ok("sys.held.append(2)")
    assert audited(own_kernel)["changed"] == ["x"]
