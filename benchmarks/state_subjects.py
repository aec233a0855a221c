"""What keeps the state of a session, driven alike: Savepoint, nothing, dill, Kishu.

A sample is one cell with all that belongs to it: what saving its effects took, how much was stored,
and what taking them back took. They do not mean the same thing everywhere:

    savepoint      commit: what the next cell waits for, from the timeline (`ms`)
                   undo: the round trip of %undo; rollback: see `Savepoint.sample`
    commits-off    the same kernel with Savepoints.enabled=False; only memory and loops are compared
    dill           commit: the round trip of a cell that does dump_module; undo: of load_module
    kishu          commit: the round trip of the cell, as its commit is part of it (about 5 ms is
                   the kernel's); undo: that of a checkout of the parent, sent as its UI sends it
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

import nbformat
import psutil  # type: ignore[import-untyped]
from harness import Interrupt, Kernel, KernelError, KernelSpec, Message
from state_workload import LOOP_FUNCTION, USE, Kind, namespace

TIMEOUT = 300.0
"""Seconds a cell may take; Kishu's checkouts of a gigabyte take 13."""

_FROZEN = (sys.executable, "-Xfrozen_modules=off")
_BOTH = (Interrupt.SIGNAL, Interrupt.MESSAGE)
_PEAK = re.compile(r"VmHWM:\s*(\d+) kB")

Sample = dict[str, float | None]
"""Seconds and bytes by measure: commit, stored, undo, rollback."""


class Subject:
    """One of the things compared.

    Args:
        spec: How its kernel starts.
        directory: Where it may keep files.
    """

    def __init__(self, spec: KernelSpec, directory: Path) -> None:
        self.spec = spec
        self.directory = directory
        self.peak = 0
        """Most bytes resident at one time since `set_up`."""

    def set_up(self, kernel: Kernel, scale: float) -> Sample:
        """Make the namespace; returns the cost of saving it for the first time."""
        cells = [*namespace(scale), LOOP_FUNCTION]
        made = sum(self._run(kernel, code) for code in cells)
        settle(kernel)
        return {"made": made}

    def sample(self, kernel: Kernel, kind: Kind, i: int) -> Sample:
        """Run a cell for the `i`-th time and take its effects back."""
        return self.once(kernel, kind, i)

    def once(self, kernel: Kernel, kind: Kind, i: int) -> Sample:
        """Run a cell for the `i`-th time and save its effects."""
        if kind.before:
            self._run(kernel, kind.before)
        self._run(kernel, kind.cell(i))
        return {}

    def disk_bytes(self) -> int:
        """What its files take on disk."""
        files = [path for path in self.directory.rglob("*") if path.is_file()]
        return sum(path.stat().st_blocks * 512 for path in files)

    def note_peak(self, kernel: Kernel) -> None:
        """Take the most memory since the last cell began, when Savepoint resets the record.

        Called before every cell, and at the end, so that what runs behind a cell is in it.
        """
        status = Path(f"/proc/{kernel.pid}/status").read_text()
        found = _PEAK.search(status)
        assert found is not None
        self.peak = max(self.peak, int(found.group(1)) * 1024)

    def _run(self, kernel: Kernel, code: str) -> float:
        """Run a cell; returns seconds to its reply."""
        self.note_peak(kernel)
        started = time.perf_counter()
        msg_id = kernel.execute(code)
        reply = kernel.reply(msg_id, TIMEOUT)
        elapsed = time.perf_counter() - started
        _check(kernel, reply, "ok", code)
        kernel.idle(msg_id, TIMEOUT)
        return elapsed


@runtime_checkable
class Restorable(Protocol):
    """A subject that lets a new process go on where another one was killed."""

    def restore(self, kernel: Kernel) -> float:
        """Bring everything back; returns seconds to the reply of the cell that does."""


class CommitsOff(Subject):
    """Savepoint that commits nothing."""

    def __init__(self, directory: Path) -> None:
        super().__init__(_savepoint("commits-off", "--Savepoints.enabled=False"), directory)


class Savepoint(Subject):
    """The subject."""

    def __init__(self, directory: Path) -> None:
        options = f"--Savepoints.directory={directory}", "--Savepoints.session=bench"
        super().__init__(_savepoint("savepoint", *options), directory)

    def set_up(self, kernel: Kernel, scale: float) -> Sample:
        """Make the namespace; the first transaction is not measured, as it notes every object."""
        super().set_up(kernel, scale)
        first = [self._saved(commit) for commit in _timeline(kernel, 0)]
        started = time.perf_counter()
        self._attempt(kernel, "raise ValueError", "rollback_on_failure")
        transaction = time.perf_counter() - started
        settle(kernel)
        return {
            "commit": sum(saved["commit"] or 0 for saved in first),
            "stored": sum(saved["stored"] or 0 for saved in first),
            "transaction": transaction,
        }

    def once(self, kernel: Kernel, kind: Kind, i: int) -> Sample:
        """Run a cell and read its commit from the timeline."""
        super().once(kernel, kind, i)
        return self._saved(_timeline(kernel, 1)[-1])

    def sample(self, kernel: Kernel, kind: Kind, i: int) -> Sample:
        """Run a cell, undo it; then let it fail, once to be committed and once to be rolled back.

        The rollback is the difference of the two: all that the policy costs before the reply, the
        preparation before the cell included. Wall times are those of the reply's metadata, taken
        inside the kernel; making the traceback is in both.
        """
        saved = self.once(kernel, kind, i)
        undo = self._run(kernel, "%undo") if kind.undone else None
        _timeline(kernel, 1)
        plain = self._attempt(kernel, kind.cell(i) + "\nraise ValueError", "commit_always")
        if kind.before:
            self._run(kernel, kind.before)
        # Another number: rolled back to its own value, the cell would have had no effect.
        failing = kind.cell(i + 500_000) + "\nraise ValueError"
        rolled_back = self._attempt(kernel, failing, "rollback_on_failure")
        return {**saved, "undo": undo, "rollback": rolled_back - plain}

    def restore(self, kernel: Kernel) -> float:
        """Bring everything back, and see that it is there."""
        elapsed = self._run(kernel, "%restore")
        self._run(kernel, USE)
        return elapsed

    def checkpoint(self, kernel: Kernel, name: str) -> Sample:
        """Commit the namespace after a look at all of it."""
        kernel.ask("savepoint_checkpoint_request", {"name": name, "policy": "warn_drop"})
        return self._saved(_timeline(kernel, 1)[-1])

    def _attempt(self, kernel: Kernel, code: str, policy: str) -> float:
        """Run a cell that fails; returns the seconds it took in the kernel.

        Raises:
            KernelError: It was not rolled back, or not wholly, though the policy says so.
        """
        self.note_peak(kernel)
        msg_id = kernel.execute(code, {"savepoint": {"transaction": policy}})
        reply = kernel.reply(msg_id, TIMEOUT)
        ours = _check(kernel, reply, "error", code)["metadata"]["savepoint"]
        kernel.idle(msg_id, TIMEOUT)
        _timeline(kernel, 1)
        became = ours["transaction"]
        wanted = "rolled_back" if policy == "rollback_on_failure" else "committed"
        if became["outcome"] != wanted or became.get("unrestorable"):
            raise KernelError(f"{code!r} under {policy} ended as {became}")
        return float(ours["stats"]["wall_ms"]) / 1e3

    @staticmethod
    def _saved(commit: Message) -> Sample:
        return {"commit": commit["ms"] / 1e3, "stored": commit["stored_bytes"]}


class Dill(Subject):
    """A stock kernel that dumps everything after each cell."""

    def __init__(self, directory: Path) -> None:
        argv = (*_FROZEN, "-m", "ipykernel_launcher", "-f", "{connection_file}")
        super().__init__(KernelSpec("dill", "dill", argv, _BOTH), directory)

    def set_up(self, kernel: Kernel, scale: float) -> Sample:
        """Make the namespace and dump it."""
        super().set_up(kernel, scale)
        self._run(kernel, "import dill")
        return self._dump(kernel)

    def once(self, kernel: Kernel, kind: Kind, i: int) -> Sample:
        """Run a cell and dump everything."""
        super().once(kernel, kind, i)
        return self._dump(kernel)

    def sample(self, kernel: Kernel, kind: Kind, i: int) -> Sample:
        """Run a cell, dump everything, and load it again."""
        saved = self.once(kernel, kind, i)
        if not kind.undone:
            return saved
        return {**saved, "undo": self._run(kernel, f"dill.load_module({str(self._file)!r})")}

    def restore(self, kernel: Kernel) -> float:
        """Bring everything back, and see that it is there."""
        elapsed = self._run(kernel, f"import dill; dill.load_module({str(self._file)!r})")
        self._run(kernel, USE)
        return elapsed

    @property
    def _file(self) -> Path:
        return self.directory / "session.pkl"

    def _dump(self, kernel: Kernel) -> Sample:
        elapsed = self._run(kernel, f"dill.dump_module({str(self._file)!r})")
        return {"commit": elapsed, "stored": self._file.stat().st_size}


class Kishu(Subject):
    """A stock kernel with Kishu loaded.

    Args:
        python: The interpreter of a virtual environment that has it, numpy and pandas.
        directory: Where its notebook and database go.
    """

    def __init__(self, python: str, directory: Path) -> None:
        argv = (python, "-m", "ipykernel_launcher", "-f", "{connection_file}")
        # The test mode makes it ask no front end to save the notebook, as there is none.
        env = {"ENV_KISHU_TEST_MODE": "1", "KISHU_PATH_ROOT": str(directory)}
        super().__init__(KernelSpec("kishu", "kishu", argv, _BOTH, env), directory)

    def set_up(self, kernel: Kernel, scale: float) -> Sample:
        """Load Kishu and make the namespace, which is part of what it takes here."""
        notebook = self.directory / "session.ipynb"
        nbformat.write(nbformat.v4.new_notebook(), notebook)
        self._run(kernel, f"from kishu import init_kishu; init_kishu({str(notebook)!r})")
        made = super().set_up(kernel, scale)["made"]
        return {"commit": made, "stored": self.disk_bytes()}

    def once(self, kernel: Kernel, kind: Kind, i: int) -> Sample:
        """Run a cell."""
        if kind.before:
            self._run(kernel, kind.before)
        stored = self.disk_bytes()
        return {
            "commit": self._run(kernel, kind.cell(i)),
            "stored": self.disk_bytes() - stored,
        }

    def sample(self, kernel: Kernel, kind: Kind, i: int) -> Sample:
        """Run a cell and check its parent out."""
        saved = self.once(kernel, kind, i)
        if not kind.undone:
            return saved
        parent = "_kishu._kishu_graph.list_history()[1].commit_id"
        started = time.perf_counter()
        msg_id = kernel.execute(f"_kishu.checkout({parent})", silent=True, store_history=False)
        _check(kernel, kernel.reply(msg_id, TIMEOUT), "ok", "checkout")
        return {**saved, "undo": time.perf_counter() - started}


def settle(kernel: Kernel, seconds: float = 120.0) -> None:
    """Return when the kernel has rested for half a second: what it writes behind would disturb."""
    process = psutil.Process(kernel.pid)
    deadline = time.perf_counter() + seconds
    process.cpu_percent()
    while time.perf_counter() < deadline:
        time.sleep(0.5)
        if process.cpu_percent() < 5:
            return


def _savepoint(name: str, *options: str) -> KernelSpec:
    argv = (*_FROZEN, "-m", "savepoint_kernel", "-f", "{connection_file}", *options)
    return KernelSpec(name, "jupyter-savepoint", argv, _BOTH)


def _timeline(kernel: Kernel, count: int) -> list[Message]:
    """The newest commits, once all is committed."""
    content: Mapping[str, object] = {"count": count, "settled": True}
    reply = kernel.ask("savepoint_timeline_request", dict(content), TIMEOUT)
    commits: list[Message] = reply["commits"]
    return commits


def _check(kernel: Kernel, reply: Message | None, status: str, code: str) -> Message:
    if reply is None or reply["content"]["status"] != status:
        said = reply and {**reply["content"], "traceback": None}
        raise KernelError(f"{kernel.spec.name}: {code!r}: {said}")
    return reply
