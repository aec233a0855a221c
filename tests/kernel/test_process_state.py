"""Process state: what cells change around the namespace is captured, rolled back, carried over."""

from __future__ import annotations

import decimal
import gc
import logging
import os
import pickle
import random
import socket
import subprocess
import sys
import textwrap
import threading
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest

from savepoint_kernel.state.interpreter import _ModuleList
from savepoint_kernel.state.libraries import builtin_participants
from savepoint_kernel.state.process import Failure, Participants, ProcessState

KERNEL = str(Path(__file__).parents[2] / "kernel")


@pytest.fixture
def process() -> Iterator[Participants]:
    """The built-in participants; this process is as before afterwards."""
    participants = Participants(builtin_participants())
    before = participants.capture()
    yield participants
    participants.restore(before)


def run(code: str, *arguments: str, **environment: str) -> str:
    """Run code in a Python of its own, which has `process`, and return what it prints."""
    head = """
        import pickle, sys
        from savepoint_kernel.state.libraries import builtin_participants
        from savepoint_kernel.state.process import Participants
        process = Participants(builtin_participants())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(head) + textwrap.dedent(code), *arguments],
        env=os.environ | {"PYTHONPATH": KERNEL} | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


class Note:
    """A user's participant: a value, and a log of its calls."""

    def __init__(self, name: str = "note", log: list[str] | None = None) -> None:
        self.name = name
        self.value: Any = 0
        self.log = [] if log is None else log

    def capture(self) -> Any:
        self.log.append(f"capture {self.name}")
        return self.value

    def restore(self, token: Any) -> None:
        self.log.append(f"restore {self.name}")
        self.value = token


class Broken(Note):
    def __init__(self, error: BaseException, name: str = "broken") -> None:
        super().__init__(name)
        self.error = error

    def restore(self, token: Any) -> None:
        raise self.error


# -- the contract


def test_participants_are_called_in_the_order_in_which_they_joined() -> None:
    log: list[str] = []
    notes = [Note("b", log), Note("a", log), Note("c", log)]
    participants = Participants(notes[:2])
    participants.register(notes[2])
    state = participants.capture()
    assert log == ["capture b", "capture a", "capture c"]
    for note in notes:
        note.value = 1
    log.clear()
    participants.restore(state)
    assert [entry for entry in log if entry.startswith("restore")] == [
        "restore b",
        "restore a",
        "restore c",
    ]


def test_users_participant_comes_after_the_directory_and_the_environment(
    process: Participants, tmp_path: Path
) -> None:
    class Watcher(Note):
        def restore(self, token: Any) -> None:
            seen.append((os.getcwd(), os.environ.get("STAGE")))

    seen: list[Any] = []
    watcher = Watcher()
    process.register(watcher)
    os.environ["STAGE"] = "one"
    here, state = os.getcwd(), process.capture()
    os.environ["STAGE"], watcher.value = "two", 1
    os.chdir(tmp_path)
    process.restore(state)
    assert seen == [(here, "one")]


def test_participant_that_has_not_changed_is_not_restored() -> None:
    note = Note()
    participants = Participants([note])
    assert participants.restore(participants.capture()) == []
    assert "restore note" not in note.log


@pytest.mark.parametrize("error", [OSError("disk on fire"), SystemExit(3)])
def test_failing_restore_is_reported_and_the_others_are_restored(error: BaseException) -> None:
    first, broken, last = Note("first"), Broken(error), Note("last")
    participants = Participants([first, broken, last])
    state = participants.capture()
    first.value = broken.value = last.value = 1
    (failure,) = participants.restore(state)
    assert failure.name == "broken"
    assert str(error) in failure.reason
    assert (first.value, last.value) == (0, 0)


def test_keyboard_interrupt_is_not_taken_for_a_failure() -> None:
    broken = Broken(KeyboardInterrupt())
    participants = Participants([broken])
    state = participants.capture()
    broken.value = 1
    with pytest.raises(KeyboardInterrupt):
        participants.restore(state)


def test_error_without_a_message_is_reported_all_the_same() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    broken = Broken(Mute())
    participants = Participants([broken])
    state = participants.capture()
    broken.value = 1
    (failure,) = participants.restore(state)
    assert "Mute" in failure.reason


def test_failing_capture_is_kept_as_the_reason_and_reported_by_a_rollback() -> None:
    class Flaky(Note):
        def capture(self) -> Any:
            if self.value is None:
                raise RuntimeError("no connection")
            return self.value

    flaky, last = Flaky("flaky"), Note("last")
    participants = Participants([flaky, last])
    flaky.value = None
    state = participants.capture()
    assert "no connection" in state.errors["flaky"]
    assert state.tokens == {"last": 0}
    assert participants.restore(state) == []  # it is as it was: without connection
    flaky.value = last.value = 1
    (failure,) = participants.restore(state)
    assert failure.name == "flaky"
    assert "no connection" in failure.reason
    assert last.value == 0


def test_tokens_that_cannot_be_compared_are_restored() -> None:
    note = Note()
    note.value = np.zeros(3)
    participants = Participants([note])
    state = participants.capture()
    note.value = np.ones(3)
    assert participants.changed(state, participants.capture()) == ["note"]
    participants.restore(state)
    assert note.value.sum() == 0


def test_changed_names_what_a_cell_changed(process: Participants) -> None:
    before = process.capture()
    random.random()
    os.environ["CHANGED"] = "1"
    assert process.changed(before, process.capture()) == ["os.environ", "random"]


def test_capturing_changes_nothing(process: Participants) -> None:
    first = process.capture()
    assert process.changed(first, process.capture()) == []


def test_participant_that_joined_after_the_capture_is_left_alone() -> None:
    participants = Participants()
    state = participants.capture()
    note = Note()
    participants.register(note)
    note.value = 1
    assert participants.restore(state) == []
    assert note.value == 1


def test_participant_that_left_is_reported() -> None:
    participants = Participants([Note()])
    state = participants.capture()
    participants.unregister("note")
    (failure,) = participants.restore(state)
    assert failure == Failure("note", "no participant of this name is registered")


def test_state_that_did_not_exist_is_restored_as_none() -> None:
    note = Note()
    note.value = None
    participants = Participants([note])
    before = participants.capture()
    note.value = "made"
    assert participants.changed(before, participants.capture()) == []
    assert participants.restore(before) == []
    assert note.value is None
    assert note.log.count("restore note") == 1


def test_registering_says_what_is_wrong() -> None:
    participants = Participants([Note()])
    with pytest.raises(ValueError, match="'note' is the kernel's own"):
        participants.register(Note())
    with pytest.raises(TypeError, match="capture and restore"):
        participants.register(object())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="is no object"):
        participants.register(Note)  # type: ignore[arg-type]
    with pytest.raises(KeyError, match="no participant is named 'other'"):
        participants.unregister("other")


def test_participant_may_unregister_itself_while_it_is_restored() -> None:
    class Once(Note):
        def restore(self, token: Any) -> None:
            participants.unregister(self.name)

    once, last = Once("once"), Note("last")
    participants = Participants([once, last])
    state = participants.capture()
    once.value = last.value = 1
    participants.restore(state)
    assert last.value == 0


# -- every built-in one, in place and in another process

CHANGES = {
    "current directory": "os.chdir('/')",
    "os.environ": "os.environ['NEW'] = 'x'; del os.environ['OLD']; os.environ['KEPT'] += '!'",
    "sys.path": "sys.path.insert(1, '/added'); sys.path.append('/last'); del sys.path[2]",
    "sys.path rebound": "sys.path = ['/only']",
    "sys.path reordered": "sys.path.insert(0, sys.path.pop())",
    "recursion limit": "sys.setrecursionlimit(4321)",
    "garbage collector": "gc.disable(); gc.set_threshold(123, 4, 5)",
    "socket timeout": "socket.setdefaulttimeout(2.5)",
    "warnings.filters": "warnings.simplefilter('error', ResourceWarning)",
    "warnings.filters reset": "warnings.resetwarnings()",
    "logging": "logging.getLogger('root').setLevel(5); logging.disable(7)",
    "locale": "locale.setlocale(locale.LC_TIME, 'C.UTF-8')",
    "decimal context": "decimal.getcontext().prec = 5; decimal.Decimal(1) / 3",
    "decimal context replaced": "decimal.setcontext(decimal.Context(prec=9, traps=[]))",
    "random": "random.seed(1); random.gauss(0, 1)",
    "numpy.random": "np.random.seed(1); np.random.standard_normal()",
    "numpy.errstate": "np.seterr(all='raise'); np.setbufsize(4096); np.seterrcall(print)",
    "numpy.printoptions": "np.set_printoptions(precision=2, legacy='1.25')",
    "matplotlib.rcParams": "mpl.rcParams.update({'lines.linewidth': 9, 'font.serif': ['X']})",
    "matplotlib.rcParams list": "mpl.rcParams['font.serif'].clear()",
    "matplotlib.rcParams cycle": "mpl.rcParams['axes.prop_cycle'] *= mpl.cycler(lw=[1, 2])",
    "pandas.options": "pd.options.display.max_rows = 7; pd.set_option('display.precision', 2)",
}
if sys.version_info >= (3, 11):
    CHANGES["digits of an int"] = "sys.set_int_max_str_digits(9999)"

IMPORTS = """
import decimal, gc, locale, logging, os, random, socket, sys, warnings
import matplotlib as mpl, numpy as np, numpy.random, pandas as pd
"""

OBSERVED = """
def observed():
    context = decimal.getcontext()
    paths = [p for p in sys.path if p.startswith('/')]
    return repr([
        os.getcwd(), [os.environ.get(n) for n in ('NEW', 'OLD', 'KEPT')], paths,
        sys.getrecursionlimit(), gc.isenabled(), gc.get_threshold(), socket.getdefaulttimeout(),
        warnings.filters, logging.root.level, logging.root.manager.disable,
        locale.setlocale(locale.LC_ALL), repr(context),
        random.getstate(), np.random.get_state()[1].tobytes(), np.random.get_state()[2:],
        np.geterr(), np.geterrcall(), np.getbufsize(), np.get_printoptions(),
        *(mpl.rcParams[n] for n in ('lines.linewidth', 'font.serif', 'axes.prop_cycle')),
        pd.options.display.max_rows, pd.get_option('display.precision'),
        getattr(sys, 'get_int_max_str_digits', int)(),
    ])
"""

ROUND_TRIPS = """
changes = pickle.load(open(sys.argv[1], 'rb'))
def pickled(state): return pickle.loads(pickle.dumps(state))
for change, name in changes:
    before, seen = process.capture(), observed()
    exec(change)
    after, changed = process.capture(), observed()
    assert changed != seen, change
    assert process.changed(before, after) == [name], (change, process.changed(before, after))
    for forward, back in ((after, before), (pickled(after), pickled(before))):
        assert process.restore(back) == [] and observed() == seen, change
        assert process.restore(forward) == [] and observed() == changed, change
    assert process.restore(before) == [] and observed() == seen, change
    assert process.changed(before, process.capture()) == [], change
print('all', len(changes))
"""


def test_every_kind_of_state_goes_back_and_forth(tmp_path: Path) -> None:
    """Exactly, by tokens that were pickled and by those that were not."""
    # torch's generator: test_tensors
    names = {participant.name for participant in builtin_participants()} - {"torch.random"}
    kinds = {name: next(n for n in names if name.startswith(n)) for name in CHANGES}
    assert set(kinds.values()) == names
    changes = [(change, kinds[name]) for name, change in CHANGES.items()]
    (tmp_path / "changes").write_bytes(pickle.dumps(changes))
    printed = run(IMPORTS + OBSERVED + ROUND_TRIPS, str(tmp_path / "changes"), OLD="1", KEPT="k")
    assert printed == f"all {len(CHANGES)}"


def test_changes_are_carried_into_another_process(tmp_path: Path) -> None:
    file = str(tmp_path / "state")
    changes = {n: c for n, c in CHANGES.items() if " re" not in n}  # one of each kind
    one = run(
        IMPORTS
        + OBSERVED
        + "file = sys.argv[1]\n"
        + "\n".join(changes.values())
        + "\npickle.dump(process.capture(), open(file, 'wb')); print(observed())",
        file,
        OLD="1",
        KEPT="k",
    )
    two = run(
        IMPORTS
        + OBSERVED
        + "\nassert process.restore(pickle.load(open(sys.argv[1], 'rb'))) == []; print(observed())",
        file,
        OLD="1",
        KEPT="k",
    )
    assert one == two


# -- directory and environment


def test_removed_directory_is_reported(process: Participants, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    os.chdir(gone)
    state = process.capture()
    os.chdir(tmp_path)
    gone.rmdir()
    os.environ["OTHER"] = "1"
    (failure,) = process.restore(state)
    assert failure.name == "current directory"
    assert str(gone) in failure.reason
    assert "OTHER" not in os.environ


def test_capture_in_a_removed_directory_says_so(process: Participants, tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    os.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    state = process.capture()
    assert "has been removed" in state.errors["current directory"]
    assert "os.environ" in state.tokens
    os.chdir(tmp_path)
    (failure,) = process.restore(state)
    assert failure.name == "current directory"


def test_children_see_the_restored_environment(process: Participants) -> None:
    os.environ["COLOUR"] = "red"
    state = process.capture()
    os.environ["COLOUR"] = "blue"
    os.environ["SHAPE"] = "round"
    process.restore(state)
    shown = subprocess.run(["env"], capture_output=True, text=True, check=True).stdout.splitlines()
    assert "COLOUR=red" in shown
    assert not any(line.startswith("SHAPE=") for line in shown)


def test_rebound_environment_is_the_same_object_again(process: Participants) -> None:
    environ, state = os.environ, process.capture()
    os.environ = {"HOME": "/nowhere"}  # type: ignore[assignment]  # noqa: B003
    assert process.restore(state) == []
    assert os.environ is environ
    assert os.environ["HOME"] != "/nowhere"


def test_time_zone_follows_the_environment() -> None:
    printed = run("""
        import os, time
        os.environ["TZ"] = "UTC0"; time.tzset()
        utc = process.capture()
        os.environ["TZ"] = "XYZ-5"; time.tzset()
        print(time.localtime(0).tm_hour, end=" ")
        process.restore(utc)
        print(time.localtime(0).tm_hour, time.tzname[0], end=" ")
        del os.environ["TZ"]
        process.restore(utc)
        print(time.localtime(0).tm_hour)
    """)
    assert printed == "5 0 UTC 0"


def test_another_process_keeps_its_own_environment_under_the_changes() -> None:
    file_free = run(
        """
        import os
        os.environ["MINE"] = "1"; del os.environ["DROPPED"]
        print(pickle.dumps(process.capture().tokens["os.environ"]).hex())
        """,
        SECRET="hunter2",
        DROPPED="1",
    )
    assert b"hunter2" not in bytes.fromhex(file_free)
    printed = run(
        """
        import os
        from savepoint_kernel.state.process import ProcessState
        state = ProcessState({"os.environ": pickle.loads(bytes.fromhex(sys.argv[1]))})
        assert process.restore(state) == []
        print(*(os.environ.get(n) for n in ("MINE", "DROPPED", "SECRET", "OWN")))
        """,
        file_free,
        SECRET="other",
        DROPPED="1",
        OWN="2",
    )
    assert printed == "1 None other 2"


# -- lists of modules


def test_rebound_path_is_the_same_list_again(process: Participants) -> None:
    path, entries, state = sys.path, list(sys.path), process.capture()
    sys.path = ["/nowhere"]
    path.clear()
    assert process.restore(state) == []
    assert sys.path is path
    assert sys.path == entries


def test_equal_list_at_another_place_counts_as_changed(process: Participants) -> None:
    path, state = sys.path, process.capture()
    sys.path = list(path)
    assert process.changed(state, process.capture()) == ["sys.path"]
    process.restore(state)
    assert sys.path is path


@pytest.mark.parametrize(
    ("change", "there"),
    [
        (lambda path: path, ["there", "lib", "site"]),
        (lambda path: ["mine", *path], ["mine", "there", "lib", "site"]),
        (lambda path: [path[0], "mine", *path[1:]], ["there", "mine", "lib", "site"]),
        (lambda path: [*path, "mine"], ["there", "lib", "site", "mine"]),
        (lambda path: ["mine", *path, "too"], ["mine", "there", "lib", "site", "too"]),
        (lambda path: path[:1], ["there", "site"]),
        (lambda path: [], ["there", "site"]),
    ],
)
def test_path_of_another_python_stays_under_the_changes(
    change: Callable[[list[str]], list[str]], there: list[str]
) -> None:
    module = types.ModuleType("interpreter")
    module.path = ["here", "lib"]  # type: ignore[attr-defined]
    lists = Participants([_ModuleList(module, "path")])
    module.path = change(module.path)  # type: ignore[attr-defined]
    token = pickle.dumps(lists.capture())
    module.path = ["there", "lib", "site"]  # type: ignore[attr-defined]
    assert Participants([_ModuleList(module, "path")]).restore(pickle.loads(token)) == []
    assert module.path == there


def test_tokens_do_not_follow_later_changes(process: Participants) -> None:
    state = process.capture()
    before = pickle.dumps(state.tokens["sys.path"]), dict(os.environ)
    sys.path.append("/later")
    os.environ["LATER"] = "1"
    matplotlib.rcParams["font.serif"].append("Later")
    np.set_printoptions(formatter={"int": hex})
    later = process.capture()
    process.restore(state)
    assert (pickle.dumps(state.tokens["sys.path"]), dict(os.environ)) == before
    assert "Later" not in matplotlib.rcParams["font.serif"]
    # What is in force is no part of a token either.
    process.restore(later)
    matplotlib.rcParams["font.serif"].append("Even later")
    np.get_printoptions()["formatter"]["int"] = oct
    process.restore(later)
    assert matplotlib.rcParams["font.serif"][-1] == "Later"
    assert np.get_printoptions()["formatter"] == {"int": hex}


# -- warnings and logging


def test_filters_that_come_back_apply_to_warnings_already_shown(process: Participants) -> None:
    shown: list[Any] = []
    place: dict[str, Any] = {"__name__": "place", "warn": warnings.warn}
    warnings.filters[:] = [("error", None, UserWarning, None, 0)]
    state = process.capture()
    warnings.simplefilter("default")
    showwarning, warnings.showwarning = warnings.showwarning, lambda *a, **k: shown.append(a)
    exec("warn('hello')", place)
    exec("warn('hello')", place)
    warnings.showwarning = showwarning
    assert len(shown) == 1
    process.restore(state)
    with pytest.raises(UserWarning):
        exec("warn('hello')", place)


def test_handlers_go_and_come_back(process: Participants) -> None:
    logger = logging.getLogger("savepoint.test")
    old, new = logging.NullHandler(), logging.StreamHandler()
    logger.handlers[:] = [old]
    state = process.capture()
    logger.addHandler(new)
    logger.removeHandler(old)
    logger.setLevel(logging.DEBUG)
    assert logger.isEnabledFor(logging.DEBUG)
    assert process.restore(state) == []
    assert logger.handlers == [old]
    assert not logger.isEnabledFor(logging.DEBUG)  # cached by loggers, too
    logger.handlers.clear()


def test_logger_that_was_not_there_has_no_settings_afterwards(process: Participants) -> None:
    state = process.capture()
    logger = logging.getLogger("savepoint.test.new")
    logger.setLevel(logging.DEBUG)
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    assert process.restore(state) == []
    assert (logger.level, logger.handlers, logger.propagate) == (0, [], True)


def test_handlers_of_another_process_are_reported() -> None:
    token = run("""
        import logging
        logging.basicConfig(level="ERROR")
        print(pickle.dumps(process.capture()).hex())
    """)
    printed = run(
        """
        import logging
        state = pickle.loads(bytes.fromhex(sys.argv[1]))
        print(process.restore(state), logging.root.level)
        logging.basicConfig()
        print(process.restore(state), len(logging.root.handlers))
        """,
        token,
    )
    first, second = printed.splitlines()
    assert "add them again to: root" in first
    assert first.endswith(" 40")
    assert second == "[] 1"


# -- generators and decimals


def test_generators_repeat_what_they_gave(process: Participants) -> None:
    np.random.standard_normal()  # leaves a second number in store
    state = process.capture()
    first = random.gauss(0, 1), random.random(), np.random.standard_normal(), np.random.rand()
    process.restore(state)
    again = random.gauss(0, 1), random.random(), np.random.standard_normal(), np.random.rand()
    assert first == again


def test_generator_that_is_not_captured_is_named(process: Participants) -> None:
    original = np.random.get_bit_generator()
    np.random.set_bit_generator(np.random.PCG64(1))
    try:
        state = process.capture()
    finally:
        np.random.set_bit_generator(original)
    assert "PCG64" in state.errors["numpy.random"]
    assert [failure.name for failure in process.restore(state)] == ["numpy.random"]


def test_replaced_decimal_context_is_the_same_object_again(process: Participants) -> None:
    context, state = decimal.getcontext(), process.capture()
    decimal.setcontext(decimal.Context(prec=4))
    context.prec = 11
    process.restore(state)
    assert decimal.getcontext() is context
    assert context.prec != 11


def test_decimal_flags_are_rolled_back(process: Participants) -> None:
    decimal.getcontext().clear_flags()
    state = process.capture()
    assert decimal.Decimal(1) / 3
    assert decimal.getcontext().flags[decimal.Inexact]
    process.restore(state)
    assert not decimal.getcontext().flags[decimal.Inexact]


def test_decimal_context_of_another_thread_is_not_touched(process: Participants) -> None:
    seen: list[int] = []
    changed, restored = threading.Event(), threading.Event()

    def other() -> None:
        decimal.getcontext().prec = 6
        changed.set()
        restored.wait(60)
        seen.append(decimal.getcontext().prec)

    state = process.capture()
    thread = threading.Thread(target=other)
    thread.start()
    changed.wait(60)
    decimal.getcontext().prec = 7
    process.restore(state)
    restored.set()
    thread.join()
    assert seen == [6]
    assert decimal.getcontext().prec not in {6, 7}


# -- locale and libraries


def test_locale_that_is_missing_is_named(process: Participants) -> None:
    (failure,) = process.restore(ProcessState({"locale": "xx_XX.nowhere"}))
    assert failure.name == "locale"
    assert "xx_XX.nowhere" in failure.reason


def test_libraries_that_are_not_imported_stay_so() -> None:
    printed = run("""
        state = process.capture()
        process.restore(state)
        print({"numpy", "pandas", "matplotlib"} & sys.modules.keys())
    """)
    assert printed == "set()"


def test_going_back_to_before_an_import_undoes_the_settings() -> None:
    printed = run("""
        state = process.capture()
        import matplotlib.pyplot as plt, numpy as np, pandas as pd
        def observed():
            settings = dict.copy(plt.rcParams), pd.options.d["display"].copy()
            return np.get_printoptions(), np.geterr(), *settings
        first = observed()
        plt.style.use("dark_background")
        pd.options.display.max_rows = 3
        np.set_printoptions(precision=2, legacy="1.25", formatter={"int": hex})
        np.seterr(all="raise")
        np.random.seed(0)
        numbers = np.random.rand(3)
        failures = process.restore(state)
        print(failures, observed() == first, np.random.rand(3).tolist() != numbers.tolist())
    """)
    assert printed == "[] True True"


def test_settings_of_pandas_go_back_without_loading_matplotlib() -> None:
    printed = run("""
        state = process.capture()
        import pandas as pd
        pd.options.display.max_rows = 3
        print(process.restore(state), pd.options.display.max_rows, "matplotlib" in sys.modules)
    """)
    assert printed == "[] 60 False"


def test_settings_of_a_missing_library_are_reported() -> None:
    state = ProcessState({"numpy.errstate": ({"all": "raise"}, None, 8192)})
    printed = run(
        """
        print(process.restore(pickle.loads(bytes.fromhex(sys.argv[1]))), 'numpy' in sys.modules)
        """,
        pickle.dumps(state).hex(),
    )
    assert "numpy is not imported; import it and restore again" in printed
    assert printed.endswith("False")


def test_settings_another_version_does_not_know_are_left_out(process: Participants) -> None:
    tokens = dict(process.capture().tokens)
    tokens["matplotlib.rcParams"] = {"lines.gone": 1, "lines.linewidth": 8.0}
    tokens["numpy.printoptions"] = tokens["numpy.printoptions"] | {"gone": 1, "precision": 3}
    tokens["pandas.options"] = {"display": {"gone": 1, "max_rows": 8}}
    (failure,) = process.restore(ProcessState(tokens))
    assert failure.name == "pandas.options"
    assert "display.gone" in failure.reason
    assert pd.options.display.max_rows == 8
    assert np.get_printoptions()["precision"] == 3
    assert matplotlib.rcParams["lines.linewidth"] == 8
    assert "lines.gone" not in matplotlib.rcParams
    assert matplotlib.rcParams["font.size"]


def test_matplotlib_backend_is_not_touched(process: Participants) -> None:
    state = process.capture()
    backend = dict.get(matplotlib.rcParams, "backend")
    matplotlib.rcParams["backend"] = "svg"
    assert process.changed(state, process.capture()) == []
    process.restore(state)
    assert matplotlib.rcParams["backend"] == "svg"
    dict.__setitem__(matplotlib.rcParams, "backend", backend)


def test_restoring_deprecated_options_does_not_warn(process: Participants) -> None:
    state = process.capture()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pd.set_option("mode.copy_on_write", "warn")
    assert process.restore(state) == []


def test_settings_of_the_collector_take_effect(process: Participants) -> None:
    state = process.capture()
    gc.disable()
    socket.setdefaulttimeout(1)
    process.restore(state)
    assert gc.isenabled()
    assert socket.getdefaulttimeout() is None
