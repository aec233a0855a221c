"""Savepoint's timeline in a session of a gigabyte: commits, rollbacks, undo, memory, disk.

    python benchmarks/state.py [--scale 1] [--n 5] [--only cells,loops] [--kishu-python PYTHON]
                               [--markdown FILE]

Beside it, in the same run and with the same namespace: the same kernel with its commits off, a
stock kernel that does `dill.dump_module` after each cell, and one with Kishu. What their numbers
mean is at the top of `state_subjects`. All are alive at the same time and take turns in random
order. It takes 1.5 GB of memory for each; and on disk, under TMPDIR, 30 GB if Kishu is among them.
Linux only: peaks are read from /proc.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from fleet import Fleet
from options import add_common, publish
from report import Row, table
from state_measures import MEASURES, Bench
from state_subjects import CommitsOff, Dill, Kishu, Savepoint, Subject

_VERSION = "import importlib.metadata as m, numpy, pandas, kishu; print(m.version('kishu'))"


def heading(bench: Bench, kishu: str | None, load: tuple[float, float, float]) -> str:
    """What a reader needs to judge the numbers: versions, machine, load, method."""
    names = ("jupyter-savepoint", "ipykernel", "dill", "numpy", "pandas")
    versions = [f"{name} {metadata.version(name)}" for name in names]
    if kishu is not None:
        versions.append(f"kishu {kishu}")
    return f"""\
{", ".join(versions)}.
CPython {platform.python_version()}, {platform.system()} {platform.release()} {platform.machine()},
{os.cpu_count()} CPUs, load average {load[0]:.2f} before and {os.getloadavg()[0]:.2f} after.
Scale {bench.scale:g}: {bench.gigabytes:.2f} GB saved. Targets are those of scale 1.

Median [p10–p90] of n samples; dill and Kishu left rows with fewer. Commit: what the next cell waits
for (savepoint, after the reply), the round trip of `dill.dump_module`, that of the cell (kishu).
Stored: before compression. Undo: `%undo`, `dill.load_module`, checkout of the parent (kishu).
Rollback: the cell and a `raise` under rollback_on_failure, less the same under commit_always.
"""


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--n", type=int, default=5, help="samples of most measures")
    parser.add_argument("--scale", type=float, default=1.0, help="1 is a namespace of 0.86 GB")
    parser.add_argument(
        "--kishu-python", metavar="PYTHON", help="interpreter of an environment with kishu"
    )
    add_common(parser, MEASURES)
    return parser.parse_args(argv)


def version_of_kishu(python: str | None) -> str | None:
    """The version that this interpreter can import, if any; says so if there is none."""
    if python is None:
        print("kishu is left out: no --kishu-python", file=sys.stderr)
        return None
    found = subprocess.run([python, "-c", _VERSION], capture_output=True, text=True)
    if found.returncode:
        last = (found.stderr.strip().splitlines() or ["no output"])[-1]
        print(f"kishu is left out: {python}: {last}", file=sys.stderr)
        return None
    return found.stdout.strip()


def subjects(directory: Path, kishu_python: str | None) -> dict[str, Subject]:
    """What is compared, each with a directory of its own."""
    found: list[Subject] = []
    for make in (Savepoint, CommitsOff, Dill):
        found.append(make(_made(directory / make.__name__)))
    if kishu_python is not None:
        found.append(Kishu(kishu_python, _made(directory / "Kishu")))
    return {subject.spec.name: subject for subject in found}


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory


def main(argv: Sequence[str] | None = None) -> None:
    """Run the measures and print the table."""
    options = arguments(argv)
    load = os.getloadavg()
    kishu = version_of_kishu(options.kishu_python)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as temporary:
        directory = Path(temporary)
        compared = subjects(directory, options.kishu_python if kishu else None)
        with Fleet([subject.spec for subject in compared.values()], directory) as fleet:
            bench = Bench(fleet, compared, options.n, options.scale)
            bench.prepare()
            for name in options.only:
                started = time.perf_counter()
                rows += MEASURES[name](bench)
                print(f"{name}: {time.perf_counter() - started:.0f} s", file=sys.stderr)
            absent = dict(fleet.absent)
    references = [name for name in compared if name != "savepoint"]
    report = heading(bench, kishu, load)
    report += "\n" + table(rows, list(compared), references) + "\n"
    report += "".join(f"\n{name} is absent: {reason}\n" for name, reason in absent.items())
    publish(report, options.markdown)


if __name__ == "__main__":
    main()
