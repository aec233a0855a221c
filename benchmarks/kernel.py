"""Savepoint's kernel against ipykernel and async-kernel, side by side in one run.

    python benchmarks/kernel.py [--quick] [--n 50] [--only echo,cold] [--markdown FILE]

All kernels are alive at the same time and take turns in random order, so whatever else the machine
does falls on all of them; compare the ratios, not the milliseconds, between machines. A kernel that
does not start is reported as absent and the run goes on with the others.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from fleet import Fleet
from harness import Interrupt, KernelSpec
from kernel_measures import MEASURES, Bench
from options import add_common, names_in, publish
from report import Row, table

# The command lines that the kernels' own kernelspecs use.
_STOCK = (sys.executable, "-Xfrozen_modules=off")
_ASYNC = (sys.executable, "-m", "async_kernel", "start")

SPECS = (
    KernelSpec(
        "ipykernel",
        "ipykernel",
        (*_STOCK, "-m", "ipykernel_launcher", "-f", "{connection_file}"),
        (Interrupt.SIGNAL, Interrupt.MESSAGE),
    ),
    KernelSpec(
        "async-kernel",
        "async-kernel",
        (*_ASYNC, "--connection_file={connection_file}", "--name=async"),
        # A SIGINT that it did not ask for ends this kernel.
        (Interrupt.MESSAGE,),
    ),
    KernelSpec(
        "savepoint",
        "jupyter-savepoint",
        (*_STOCK, "-m", "savepoint_kernel", "-f", "{connection_file}"),
        (Interrupt.SIGNAL, Interrupt.MESSAGE),
    ),
)


def heading(specs: Sequence[KernelSpec], load: tuple[float, float, float]) -> str:
    """What a reader needs to judge the numbers: versions, machine, load, method."""
    return f"""\
{", ".join(f"{spec.name} {version(spec)}" for spec in specs)}.
CPython {platform.python_version()}, {platform.system()} {platform.machine()},
{os.cpu_count()} CPUs, load average {load[0]:.2f} before and {os.getloadavg()[0]:.2f} after.

Median [p10–p90] of n samples per kernel; a kernel that was slow or silent left its row with fewer.
All kernels were alive at the same time and took turns in random order.
Ratios are savepoint / other: below 1 is faster or smaller.
"""


def version(spec: KernelSpec) -> str:
    """The installed version of a kernel."""
    try:
        return metadata.version(spec.distribution)
    except metadata.PackageNotFoundError:
        return "(not installed)"


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    kernels = [spec.name for spec in SPECS]
    parser.add_argument(
        "--n", type=int, default=50, help="samples of most measures; the others scale with it"
    )
    parser.add_argument(
        "--quick", action="store_true", help="a look in a minute: the same as --n 10"
    )
    parser.add_argument(
        "--kernels",
        type=names_in(kernels),
        default=kernels,
        metavar="NAME,..",
        help=f"kernels to run: {', '.join(kernels)}",
    )
    add_common(parser, MEASURES)
    options = parser.parse_args(argv)
    if options.quick:
        options.n = 10
    return options


def main(argv: Sequence[str] | None = None) -> None:
    """Run the measures and print the table."""
    options = arguments(argv)
    specs = [spec for spec in SPECS if spec.name in options.kernels]
    load = os.getloadavg()
    rows: list[Row] = []
    with (
        tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as directory,
        Fleet(specs, Path(directory)) as fleet,
    ):
        for name in options.only:
            started = time.perf_counter()
            rows += MEASURES[name](Bench(fleet, options.n))
            print(f"{name}: {time.perf_counter() - started:.0f} s", file=sys.stderr)
        absent = dict(fleet.absent)
    report = heading(specs, load)
    report += "\n" + table(rows, [spec.name for spec in specs]) + "\n"
    report += "".join(f"\n{name} is absent: {reason}\n" for name, reason in absent.items())
    publish(report, options.markdown)


if __name__ == "__main__":
    main()
