"""Starting a kernel: from the pool, by a fork, cold, and stock ipykernel, side by side in one run.

    python benchmarks/pool.py [--n 25] [--only launch,shim] [--crowd 100] [--markdown FILE]

They take turns in random order, so whatever else the machine does falls on all of them. A sample of
the pool begins when its standbys are there again and the machine is quiet. Linux only.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

from options import add_common, publish
from pool_subjects import Cold, Pooled, Stock, Subject
from report import Row, Series, Target, table

PRELOAD = "numpy,pandas,matplotlib"


class Bench:
    """What the measures measure.

    Args:
        subjects: by name.
        n: samples of a measure.
        crowd: kernels at once.
    """

    def __init__(self, subjects: Sequence[Subject], n: int, crowd: int) -> None:
        self.subjects = {subject.name: subject for subject in subjects}
        self.n = n
        self.crowd = crowd

    def fill(self, row: Row, take: Callable[[Subject], float], n: int | None = None) -> Row:
        """Take samples of all subjects in random order."""
        for _ in range(self.n if n is None else n):
            for name in random.sample(list(self.subjects), len(self.subjects)):
                subject = self.subjects[name]
                subject.settle()
                row.series.setdefault(name, Series()).add(take(subject))
        return row


def launch(bench: Bench) -> list[Row]:
    """From the request to the reply to kernel_info, on sockets that try again every 5 ms."""
    row = Row("request to kernel_info_reply", target=Target(limit=15))
    return [bench.fill(row, lambda subject: subject.launch())]


def ready(bench: Bench) -> list[Row]:
    """`start_new_kernel` of jupyter_client, whose wait_for_ready ends with 200 ms of waiting."""
    return [bench.fill(Row("jupyter_client: start_new_kernel"), lambda subject: subject.ready())]


def shim(bench: Bench) -> list[Row]:
    """A front end that spawns the kernelspec's argv, to the reply to kernel_info."""
    row = Row("argv of the kernelspec to kernel_info_reply", target=Target(limit=40))
    return [bench.fill(row, lambda subject: subject.spawn())]


def notebook(bench: Bench) -> list[Row]:
    """nbclient executes a notebook of one cell."""
    row = Row("nbclient: a cell that imports numpy, pandas, matplotlib", target=Target(limit=400))
    return [bench.fill(row, lambda subject: subject.notebook(), max(3, bench.n // 3))]


def crowd(bench: Bench) -> list[Row]:
    """Kernels that are asked for at once, until the last one has answered."""
    row = Row(f"{bench.crowd} kernels at once", "s", Target(limit=5 * bench.crowd / 100))
    return [bench.fill(row, lambda subject: subject.crowd(bench.crowd), 1)]


def memory(bench: Bench) -> list[Row]:
    """What one of ten idle kernels takes that have imported numpy, pandas and matplotlib."""
    row = Row("memory of a kernel with numpy, pandas, matplotlib: PSS", "MiB", Target(limit=25))
    return [bench.fill(row, lambda subject: subject.memory(10), 1)]


def standby(bench: Bench) -> list[Row]:
    """What one of ten standbys takes."""
    row = Row(f"memory of a standby with {PRELOAD}: PSS", "MiB", Target(limit=25))
    pooled = bench.subjects["savepoint"]
    assert isinstance(pooled, Pooled)
    row.series[pooled.name] = Series([pooled.standby_memory(10)])
    return [row]


MEASURES: dict[str, Callable[[Bench], list[Row]]] = {
    "launch": launch,
    "ready": ready,
    "shim": shim,
    "notebook": notebook,
    "crowd": crowd,
    "memory": memory,
    "standby": standby,
}


def heading(load: tuple[float, float, float]) -> str:
    """What a reader needs to judge the numbers: versions, machine, load, method."""
    names = ("jupyter-savepoint", "ipykernel", "jupyter-client", "numpy", "pandas", "matplotlib")
    return f"""\
{", ".join(f"{name} {metadata.version(name)}" for name in names)}.
CPython {platform.python_version()}, {platform.system()} {platform.release()} {platform.machine()},
{os.cpu_count()} CPUs, load average {load[0]:.2f} before and {os.getloadavg()[0]:.2f} after.

Median [p10–p90] of n samples, in turns. savepoint: a standby of the pool, with {PRELOAD}
preloaded. fork: the same pool without standbys. cold: Savepoint without the pool.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the measures and print the table."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--n", type=int, default=25, help="samples of most measures")
    parser.add_argument("--crowd", type=int, default=100, help="kernels at once in that measure")
    add_common(parser, MEASURES)
    options = parser.parse_args(argv)
    load = os.getloadavg()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as temporary:
        directory = Path(temporary)
        subjects = [
            Pooled("savepoint", directory, PRELOAD.split(","), min_idle=2),
            Pooled("fork", directory, PRELOAD.split(","), min_idle=0),
            Cold("cold", directory),
            Stock("ipykernel", directory),
        ]
        try:
            for subject in subjects:
                subject.start()
            for name in options.only:
                started = time.perf_counter()
                rows += MEASURES[name](Bench(subjects, options.n, options.crowd))
                print(f"{name}: {time.perf_counter() - started:.0f} s", file=sys.stderr)
        finally:
            for subject in subjects:
                subject.stop()
    report = heading(load)
    report += "\n" + table(rows, [subject.name for subject in subjects], ["ipykernel"]) + "\n"
    publish(report, options.markdown)


if __name__ == "__main__":
    main()
