"""Values that take too long to save, or too much: they cost themselves and nothing else."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from savepoint_kernel.interrupts import interrupt_main_thread
from savepoint_kernel.watchdog import Watchdog

from .test_timeline import commits, last_commit

ENDLESS = """
import builtins, threading
class Endless:
    def __getstate__(self):
        builtins.tries = getattr(builtins, "tries", 0) + 1
        while True:
            threading.Event().wait(60)
"""


def test_value_that_takes_too_long_costs_only_itself(own_kernel):
    own_kernel.ok("%config Savepoints.saving_timeout = 0.6")
    own_kernel.ok(ENDLESS)
    own_kernel.ok("endless = Endless(); linked = [endless]; x = [1]")
    commit = last_commit(own_kernel)
    assert commit["dropped"].keys() == {"endless", "linked"}
    assert "0.6 s (Savepoints.saving_timeout)" in commit["dropped"]["endless"]
    own_kernel.ok("x.append(2)")
    own_kernel.ok("%undo")
    assert own_kernel.eval("x, linked[0] is endless") == "([1], True)"


def test_value_that_took_too_long_is_tried_again_when_touched(own_kernel):
    own_kernel.ok("%config Savepoints.saving_timeout = 0.6")
    own_kernel.ok(ENDLESS)
    own_kernel.ok("endless = Endless()")
    assert "endless" in last_commit(own_kernel)["dropped"]
    tries = int(own_kernel.eval("builtins.tries"))
    own_kernel.ok("exec('y = 1')")  # which may touch anything
    assert last_commit(own_kernel)["verified"] == "full"
    assert int(own_kernel.eval("builtins.tries")) == tries
    own_kernel.ok("endless.mark = 1")
    commits(own_kernel)
    assert int(own_kernel.eval("builtins.tries")) > tries


@pytest.mark.parametrize("value", ["b'x' * 2_000_000", "[lambda: 1, 'x' * 2_000_000]"])
def test_value_over_the_limit_is_not_saved(own_kernel, value):
    own_kernel.ok("%config Savepoints.value_limit = 1_000_000")
    own_kernel.ok(f"large = {value}; small = 1")
    commit = last_commit(own_kernel)
    assert commit["dropped"].keys() == {"large"}
    assert "limit of 1000000 bytes" in commit["dropped"]["large"]
    own_kernel.ok("large = 2")
    assert last_commit(own_kernel)["dropped"] == {}


@pytest.fixture
def watchdog() -> Iterator[Watchdog]:
    """A watchdog that raises KeyboardInterrupt here, where a shell may have had SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield Watchdog(interrupt_main_thread)
    signal.signal(signal.SIGINT, before)


def test_limit_that_is_kept_interrupts_nothing(watchdog):
    for _ in range(100):
        with watchdog.limit(60, TimeoutError()):
            pass
    shorter = TimeoutError("shorter")
    with pytest.raises(TimeoutError) as raised, watchdog.limit(0.01, shorter):
        threading.Event().wait(60)  # the thread waits for the 60 s above when this begins
    assert raised.value is shorter


def test_interrupt_of_a_user_is_no_timeout(watchdog):
    with pytest.raises(KeyboardInterrupt), watchdog.limit(60, TimeoutError()):
        signal.raise_signal(signal.SIGINT)


def test_swallowed_interrupt_is_repeated(watchdog):
    def swallow_one() -> None:
        with suppress(KeyboardInterrupt):
            threading.Event().wait(60)
        threading.Event().wait(60)

    with pytest.raises(TimeoutError), watchdog.limit(0.01, TimeoutError()):
        swallow_one()


def test_ten_thousand_names_that_share_something_are_committed(own_kernel):
    own_kernel.ok("shared = [1]\nfor i in range(15_000): globals()[f'a_long_name_{i}'] = [shared]")
    commit = last_commit(own_kernel)
    assert (len(commit["added"]), commit["dropped"]) == (15_002, {})
    own_kernel.ok("shared.append(2)")
    own_kernel.ok("%undo")
    assert own_kernel.eval("shared, a_long_name_14999[0] is shared") == "([1], True)"
    own_kernel.ok("%savepoint gc")
    own_kernel.ok("%redo")
    assert own_kernel.eval("shared, a_long_name_14999[0] is shared") == "([1, 2], True)"
