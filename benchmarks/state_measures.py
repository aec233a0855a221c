"""What is measured of the timeline: each function takes the samples of one group of rows."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import count

import psutil  # type: ignore[import-untyped]
from fleet import Fleet, Plan, interleave
from harness import Kernel, KernelError
from report import Row, Series, Target
from state_subjects import Restorable, Sample, Savepoint, Subject, settle
from state_workload import LOOPS, ROLLBACK_MS, VERIFY_MS_PER_GB, Kind, kinds

CELLS = 30
"""Cells after which the store is weighed."""


@dataclass(slots=True)
class Bench:
    """What every measure needs.

    Args:
        fleet: The kernels, one for each subject.
        subjects: What is compared, by the name of its kernel.
        n: Samples that the user asked for.
        scale: Of the namespace.
        first: What saving the namespace took, by subject.
        resident: Bytes resident when the namespace was there, by subject.
    """

    fleet: Fleet
    subjects: Mapping[str, Subject]
    n: int
    scale: float
    first: dict[str, Sample] = field(default_factory=dict)
    resident: dict[str, float] = field(default_factory=dict)
    _numbers: count[int] = field(default_factory=lambda: count(1))

    def prepare(self) -> None:
        """Give every kernel its namespace."""

        def set_up(kernel: Kernel) -> None:
            name = kernel.spec.name
            print(f"{name}: making the namespace", file=sys.stderr)
            self.first[name] = self.subjects[name].set_up(kernel, self.scale)
            self.resident[name] = psutil.Process(kernel.pid).memory_info().rss

        self.fleet.renew(set_up)

    def number(self) -> int:
        """A number that no cell has had."""
        return next(self._numbers)

    @property
    def gigabytes(self) -> float:
        """What the first commits of Savepoint stored."""
        return (self.first["savepoint"]["stored"] or 0) / 1e9

    def row(self, label: str, unit: str, values: Mapping[str, float | None]) -> Row:
        """A row of one sample for each subject that has one."""
        row = Row(label, unit, absent=set(self.fleet.absent))
        for name, value in values.items():
            if value is not None:
                row.series[name] = Series([value])
        return row


def namespace(bench: Bench) -> list[Row]:
    """Saving all of it for the first time, and once more when nothing has changed."""
    commits = {name: sample.get("commit") for name, sample in bench.first.items()}
    stored = {name: sample.get("stored") for name, sample in bench.first.items()}
    transactions = {name: sample.get("transaction") for name, sample in bench.first.items()}
    kernel, subject = bench.fleet["savepoint"], bench.subjects["savepoint"]
    assert isinstance(subject, Savepoint)
    subject.checkpoint(kernel, "first")
    again = [subject.checkpoint(kernel, f"again {i}") for i in range(bench.n)]
    return [
        bench.row("save the whole namespace", "s", commits),
        bench.row("save the whole namespace: stored", "MB", stored),
        bench.row("first transaction, which notes every object", "ms", transactions),
        Row(
            "checkpoint of the unchanged namespace",
            series={"savepoint": Series([sample["commit"] or 0 for sample in again])},
        ),
        Row(
            "checkpoint of the unchanged namespace: stored",
            "kB",
            Target(100),
            series={"savepoint": Series([sample["stored"] or 0 for sample in again])},
        ),
    ]


def disk(bench: Bench) -> list[Row]:
    """Files after the namespace, and after thirty cells of all kinds in turn."""
    before: dict[str, float | None] = {}
    after: dict[str, float | None] = {}
    cycle = kinds(bench.scale)
    for name in bench.fleet.names:
        if name == "commits-off":
            continue
        kernel, subject = bench.fleet[name], bench.subjects[name]
        before[name] = subject.disk_bytes()
        for i in range(CELLS):
            subject.once(kernel, cycle[i % len(cycle)], bench.number())
        settle(kernel)
        after[name] = subject.disk_bytes()
    return [
        bench.row("on disk after the namespace", "MB", before),
        bench.row(f"on disk after {CELLS} more cells", "MB", after),
    ]


def cells(bench: Bench) -> list[Row]:
    """For each kind of cell: its commit, what that stored, its rollback, its undo."""
    groups: dict[str, list[Row]] = {"commit": [], "stored": [], "rollback": [], "undo": []}
    rollback_limit = ROLLBACK_MS + VERIFY_MS_PER_GB * bench.gigabytes

    def take(name: str, kind: Kind, rows: dict[str, Row]) -> list[float | None]:
        sample = bench.subjects[name].sample(bench.fleet[name], kind, bench.number())
        for measure in ("stored", "rollback", "undo"):
            if sample.get(measure) is not None:
                rows[measure].series.setdefault(name, Series()).add(sample[measure])
        return [sample["commit"]]

    names = [name for name in bench.fleet.specs if name != "commits-off"]
    # dill and Kishu take seconds for each, so they leave a row after two.
    plan = Plan(n=bench.n, seconds=12.0, at_least=2)
    for kind in kinds(bench.scale):
        limit = None if kind.touched is None else Target(round(1.2 * kind.touched / 1e3, 1))
        rows = {
            "commit": Row(f"commit: {kind.label}", target=Target(kind.limit)),
            "stored": Row(f"stored: {kind.label}", "kB", limit),
            "rollback": Row(f"rollback: {kind.label}", target=Target(round(rollback_limit))),
            "undo": Row(f"undo: {kind.label}"),
        }

        interleave(bench.fleet, rows["commit"], names, plan, partial(take, kind=kind, rows=rows))
        for measure, row in rows.items():
            if row.n:
                groups[measure].append(row)
        print(f"  {kind.label}", file=sys.stderr)
    return [row for rows_of_one in groups.values() for row in rows_of_one]


def loops(bench: Bench) -> list[Row]:
    """A million steps of user code, timed by the cell itself, with commits and without."""
    names = [name for name in ("savepoint", "commits-off") if name in bench.fleet.names]

    def take(name: str, code: str) -> list[float | None]:
        kernel = bench.fleet[name]
        msg_id = kernel.execute(code, user_expressions={"took": "loop_took"})
        reply = kernel.reply(msg_id, 30.0)
        kernel.idle(msg_id, 30.0)
        if reply is None or reply["content"]["status"] != "ok":
            raise KernelError(f"{name}: no ok reply to a loop")
        return [float(reply["content"]["user_expressions"]["took"]["data"]["text/plain"])]

    rows = []
    for label, code in LOOPS.items():
        timed = (
            "from time import perf_counter as loop_clock\nloop_began = loop_clock()\n"
            f"{code}\nloop_took = loop_clock() - loop_began"
        )
        row = Row(label, target=Target(ratios={"commits-off": 1.03}))
        plan = Plan(n=20 * bench.n, seconds=60.0)
        interleave(bench.fleet, row, names, plan, partial(take, code=timed))
        rows.append(row)
    return rows


def memory(bench: Bench) -> list[Row]:
    """Resident bytes with the namespace; the peak of the run; what commits added to it."""
    peaks: dict[str, float | None] = {}
    for name in bench.fleet.names:
        bench.subjects[name].note_peak(bench.fleet[name])
        peaks[name] = bench.subjects[name].peak
    resident: dict[str, float | None] = dict(bench.resident)
    rows = [
        bench.row("memory: RSS with the namespace", "MiB", resident),
        bench.row("memory: peak of the run", "MiB", peaks),
    ]
    bare = "commits-off"
    if bare in bench.fleet.names:
        allowed = round((0.1 * bench.gigabytes * 1e9 + 64e6) / 2**20)
        for label, values in (("RSS", resident), ("peak", peaks)):
            mine, theirs = values["savepoint"], values[bare]
            assert mine is not None
            assert theirs is not None
            row = bench.row(f"memory: {label} that commits add", "MiB", {})
            row.series["savepoint"] = Series([mine - theirs])
            row.target = Target(allowed)
            rows.append(row)
    return rows


def restore(bench: Bench) -> list[Row]:
    """Everything back in a new process, after the one before was killed."""
    row = Row("restore of everything in a new process", "s", Target(1.0))
    able = {
        name: subject
        for name in bench.fleet.names
        if isinstance(subject := bench.subjects[name], Restorable)
    }

    def take(name: str) -> list[float | None]:
        settle(bench.fleet[name])
        bench.fleet.restart(name, bare=True)
        return [able[name].restore(bench.fleet[name])]

    interleave(bench.fleet, row, list(able), Plan(n=bench.n, seconds=120.0), take)
    return [row]


MEASURES: dict[str, Callable[[Bench], list[Row]]] = {
    "namespace": namespace,
    "disk": disk,
    "cells": cells,
    "loops": loops,
    "memory": memory,
    "restore": restore,
}
